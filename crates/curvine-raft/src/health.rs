//! Whether the replica may take changes, shared by all its parts.
//!
//! What must hold: `Failed` is final. After a failed write or fdatasync nobody knows what is on the disk, so nothing is written or
//! acknowledged any more until a new start has looked.

use tokio::sync::watch;

use crate::Mode;

/// The replica's mode and who waits for it to change.
#[derive(Debug)]
pub(crate) struct Health {
    mode: watch::Sender<Mode>,
}

impl Default for Health {
    fn default() -> Self {
        Self { mode: watch::Sender::new(Mode::Working) }
    }
}

impl Health {
    pub fn mode(&self) -> Mode {
        self.mode.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Mode> {
        self.mode.subscribe()
    }

    pub fn is_failed(&self) -> bool {
        matches!(*self.mode.borrow(), Mode::Failed(_))
    }

    pub fn is_read_only(&self) -> bool {
        matches!(*self.mode.borrow(), Mode::ReadOnly(_))
    }

    /// The first failure stays.
    pub fn fail(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.change(|mode| (!matches!(mode, Mode::Failed(_))).then(|| Mode::Failed(reason.clone())));
    }

    pub fn read_only(&self, reason: impl Into<String>) {
        let reason = reason.into();
        self.change(|mode| matches!(mode, Mode::Working).then(|| Mode::ReadOnly(reason.clone())));
    }

    pub fn working(&self) {
        self.change(|mode| matches!(mode, Mode::ReadOnly(_)).then_some(Mode::Working));
    }

    fn change(&self, next: impl FnOnce(&Mode) -> Option<Mode>) {
        self.mode.send_if_modified(|mode| match next(mode) {
            Some(changed) => {
                match &changed {
                    Mode::Working => tracing::info!("the log takes changes again"),
                    Mode::ReadOnly(reason) => {
                        tracing::error!(reason, "the log takes no changes until its disk has space")
                    }
                    Mode::Failed(reason) => {
                        tracing::error!(reason, "the log has failed; restart after removing the cause")
                    }
                }
                *mode = changed;
                true
            }
            None => false,
        });
    }
}
