//! Hidden characters: removes those that have an effect but no glyph from a part of the page.
//!
//! **Invariant:** no text can reverse the direction of the text after it, which would let a page
//! seem to state something else.
//! **Not here:** escaping, which `maud` does.

use maud::{Markup, PreEscaped};

/// Removes characters that change the direction of text, and replaces control characters by
/// spaces. Line breaks are control characters too: the markup must not need any.
pub(crate) fn remove_hidden(markup: Markup) -> Markup {
    let kept = |letter: char| match letter {
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => None,
        letter if letter.is_control() => Some(' '),
        letter => Some(letter),
    };
    PreEscaped(markup.into_string().chars().filter_map(kept).collect())
}

#[cfg(test)]
mod tests {
    use maud::html;

    use super::*;

    #[test]
    fn text_stays_text() {
        let hostile = "</b><script>alert('&\u{202e}\n')</script>\"";
        let page = remove_hidden(html! { b title=(hostile) { (hostile) } br; });
        let reported = "&lt;/b&gt;&lt;script&gt;alert('&amp; ')&lt;/script&gt;&quot;";
        assert_eq!(page.into_string(), format!("<b title=\"{reported}\">{reported}</b><br>"));
    }
}
