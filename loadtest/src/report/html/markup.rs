//! Markup: writes HTML and SVG.
//!
//! **Invariant:** every element that is opened is closed, and whatever text is handed in is text in
//! the page: no part of it becomes markup.
//! **Not here:** what the page says.

use std::fmt::{self, Display, Write};

/// Attributes in the order they are written.
pub(super) type Attributes<'a> = &'a [(&'static str, &'a dyn Display)];

/// A page, or a part of one.
#[derive(Default)]
pub(super) struct Markup(String);

impl Markup {
    /// An element with what `inside` writes.
    pub(super) fn node(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        inside: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes, ">");
        inside(self);
        self.0.push_str("</");
        self.0.push_str(name);
        self.0.push('>');
    }

    /// An element with nothing but a text.
    pub(super) fn leaf(
        &mut self,
        name: &'static str,
        attributes: Attributes<'_>,
        text: impl Display,
    ) {
        self.node(name, attributes, |inside| inside.text(text));
    }

    /// An element with nothing in it.
    pub(super) fn void(&mut self, name: &'static str, attributes: Attributes<'_>) {
        self.open(name, attributes, "/>");
    }

    pub(super) fn text(&mut self, text: impl Display) {
        // Writing to a String cannot fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
    }

    /// A new line, for those who read the source.
    pub(super) fn line(&mut self) {
        self.0.push('\n');
    }

    /// Our own style sheet: between its tags nothing is escaped.
    pub(super) fn style(&mut self, sheet: &'static str) {
        self.0.push_str("<style>");
        self.0.push_str(sheet);
        self.0.push_str("</style>");
    }

    pub(super) fn finish(self) -> String {
        format!("<!DOCTYPE html>\n{}\n", self.0)
    }

    fn open(&mut self, name: &'static str, attributes: Attributes<'_>, end: &str) {
        self.0.push('<');
        self.0.push_str(name);
        for (name, value) in attributes {
            self.0.push(' ');
            self.0.push_str(name);
            self.0.push_str("=\"");
            self.text(value);
            self.0.push('"');
        }
        self.0.push_str(end);
    }
}

/// Takes text, and lets nothing through that would be more than text.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // These turn the text after them around: a page could be made to say something
                // else.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
                letter if letter.is_control() => self.0.push(' '),
                letter => self.0.push(letter),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut page = Markup::default();
        let hostile = "</b><script>alert('&\u{202e}\n')</script>\"";
        page.node("b", &[("title", &hostile)], |b| b.text(hostile));
        page.void("br", &[]);
        let told = "&lt;/b&gt;&lt;script&gt;alert(&#39;&amp; &#39;)&lt;/script&gt;&quot;";
        assert_eq!(
            page.finish(),
            format!("<!DOCTYPE html>\n<b title=\"{told}\">{told}</b><br/>\n")
        );
    }
}
