//! Example lines: adds exemplars (trace ids of single requests) to the bucket lines of the metrics.
//!
//! `prometheus-client` writes exemplars only for histograms that it has counted itself. Its output
//! is therefore written to an `ExampleLines`, which adds the exemplars in the order of the buckets.
//!
//! **Not here:** all other lines of the text (`openmetrics`).

use std::fmt;

use crate::bucket_counter::Example;

/// Text of the metrics while it is being written.
#[derive(Debug)]
pub(crate) struct ExampleLines {
    text: String,
    /// Index in the text at which the current line begins.
    line: usize,
    /// Prefix of every bucket line.
    bucket: &'static str,
    /// Examples of the bucket lines, in order; `None` for a line without one.
    examples: std::vec::IntoIter<Option<Example>>,
}

impl ExampleLines {
    pub(crate) fn new(bucket: &'static str, examples: Vec<Option<Example>>) -> Self {
        Self { text: String::new(), line: 0, bucket, examples: examples.into_iter() }
    }

    /// Returns the text.
    pub(crate) fn text(self) -> String {
        self.text
    }

    fn end_line(&mut self) -> fmt::Result {
        use fmt::Write;
        if self.text[self.line..].starts_with(self.bucket)
            && let Some(Some(example)) = self.examples.next()
        {
            let Example { trace, value, at } = example;
            let (trace, value) = (u128::from_be_bytes(trace), f64::from(value) / 1e6);
            write!(self.text, " # {{trace_id=\"{trace:032x}\"}} {value} {at}")?;
        }
        self.text.push('\n');
        self.line = self.text.len();
        Ok(())
    }
}

impl fmt::Write for ExampleLines {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut lines = text.split('\n');
        self.text.push_str(lines.next().unwrap_or_default());
        for line in lines {
            self.end_line()?;
            self.text.push_str(line);
        }
        Ok(())
    }
}
