//! Bars of a transfer on the terminal: one for everything, one for each large file under way.
//!
//! Owns no transfer. Invariant: without a terminal nothing is drawn and nothing is counted.

use crate::output::Output;
use crate::path::printable;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::time::Duration;

/// Smaller files have no bar of their own.
const OWN_BAR_BYTES: u64 = 16 << 20;
/// Redrawing of elapsed time and rates.
const TICK: Duration = Duration::from_millis(200);
/// Characters of a name beside its bar.
const NAME_CHARS: usize = 32;

/// Bars of one command.
pub struct Progress {
    bars: Option<MultiProgress>,
    total: ProgressBar,
}

impl Progress {
    /// Bars on the terminal of `output`, if it has one.
    pub fn start(output: &Output, title: String) -> Self {
        let bars = output.bars().cloned();
        let total = match &bars {
            Some(bars) => {
                let total = bars.add(ProgressBar::new(0));
                total.set_style(style(
                    "{prefix} {bytes}/{total_bytes} {wide_bar} {binary_bytes_per_sec} {eta}",
                ));
                total.set_prefix(title);
                total.enable_steady_tick(TICK);
                total
            }
            None => ProgressBar::hidden(),
        };
        Progress { bars, total }
    }

    /// A file of `bytes` was found.
    pub fn expect(&self, bytes: u64) {
        self.total.inc_length(bytes);
    }

    /// A file that is done without being copied.
    pub fn skip(&self, bytes: u64) {
        self.total.inc(bytes);
    }

    /// A file of `bytes` is copied from now on.
    pub fn file(&self, name: &[u8], bytes: u64) -> FileProgress {
        let own = self.bars.as_ref().filter(|_| bytes >= OWN_BAR_BYTES).map(|bars| {
            let bar = bars.add(ProgressBar::new(bytes));
            bar.set_style(style(
                "  {msg:32} {bytes}/{total_bytes} {wide_bar} {binary_bytes_per_sec}",
            ));
            let name = printable(name);
            let cut = name.chars().count().saturating_sub(NAME_CHARS);
            bar.set_message(name.chars().skip(cut).collect::<String>());
            bar
        });
        FileProgress {
            total: self.total.clone(),
            own,
        }
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        self.total.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Progress of one file; its bar goes when dropped.
pub struct FileProgress {
    total: ProgressBar,
    own: Option<ProgressBar>,
}

impl FileProgress {
    /// `bytes` more are copied.
    pub fn advance(&self, bytes: u64) {
        self.total.inc(bytes);
        if let Some(own) = &self.own {
            own.inc(bytes);
        }
    }
}

impl Drop for FileProgress {
    fn drop(&mut self) {
        if let Some(own) = &self.own {
            own.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant")
}
