//! The extension points of scheduling, and what passes between them.
//!
//! A plugin is one type that implements [`Plugin`] and says at which [`Point`]s it wants to be asked. A [`Profile`] is
//! an ordered choice of plugins under a scheduler's name. Plugins decide on snapshots; those that do I/O get a
//! [`Handle`].

mod change;
mod handle;
mod plugin;
mod profile;
mod run;
mod state;
mod verdict;

pub use change::Change;
pub use handle::{Handle, Nominator, WaitingPods};
pub use plugin::{Bound, Permit, Plugin, Point, PostFilter, PostFilterInput, PreFilter, Scoring};
pub use profile::{PluginChoice, Profile};
pub use run::MAX_SCORE;
pub use state::{CycleState, StateData};
pub use verdict::{Diagnosis, Kind, Rejection};
