//! A bar on standard error with rate and time left; nothing where nobody looks at it.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for `total` jobs that are `what` one by one.
pub fn bar(total: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new(total as u64).with_message(what);
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}  {per_sec}  {eta} left");
    match style {
        Ok(style) => bar.with_style(style),
        // the template is ours and good; a plain bar does as well
        Err(_) => bar,
    }
}
