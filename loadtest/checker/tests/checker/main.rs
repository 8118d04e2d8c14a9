//! The checker is checked: rule by rule, against brute force on small histories, against a
//! simulated server that keeps its promises, and against ones that break each.

mod allowed_losses;
mod brute;
mod lines;
mod promises;
mod rules;
mod server;
mod small;
