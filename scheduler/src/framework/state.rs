//! What plugins keep for themselves between the extension points of one attempt.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};

/// What can be kept: anything that can be copied, since preemption tries things out on copies.
pub trait StateData: Any + Send + Sync {
    /// A copy.
    fn copy(&self) -> Box<dyn StateData>;
    /// Itself, for a look at its type.
    fn as_any(&self) -> &dyn Any;
    /// Itself, for a change.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T: Any + Clone + Send + Sync> StateData for T {
    fn copy(&self) -> Box<dyn StateData> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// The state of one attempt to place one pod.
#[derive(Default)]
pub struct CycleState {
    data: BTreeMap<&'static str, Box<dyn StateData>>,
    /// Plugins that have nothing to say at Filter.
    pub skip_filter: BTreeSet<&'static str>,
    /// Plugins that have nothing to say at Score.
    pub skip_score: BTreeSet<&'static str>,
}

impl Clone for CycleState {
    fn clone(&self) -> Self {
        CycleState {
            data: self
                .data
                .iter()
                // Not `data.copy()`: the box is state data too.
                .map(|(name, data)| (*name, data.as_ref().copy()))
                .collect(),
            skip_filter: self.skip_filter.clone(),
            skip_score: self.skip_score.clone(),
        }
    }
}

impl CycleState {
    /// Keeps something under a name of the plugin's choice.
    pub fn put<T: StateData>(&mut self, name: &'static str, data: T) {
        self.data.insert(name, Box::new(data));
    }

    /// What was kept.
    pub fn get<T: StateData>(&self, name: &str) -> Option<&T> {
        self.data.get(name)?.as_ref().as_any().downcast_ref()
    }

    /// What was kept, for a change.
    pub fn get_mut<T: StateData>(&mut self, name: &str) -> Option<&mut T> {
        self.data
            .get_mut(name)?
            .as_mut()
            .as_any_mut()
            .downcast_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_independent() {
        let mut state = CycleState::default();
        state.put("x", vec![1]);
        let mut copy = state.clone();
        copy.get_mut::<Vec<i32>>("x").unwrap().push(2);
        assert_eq!(state.get::<Vec<i32>>("x").unwrap(), &[1]);
        assert_eq!(copy.get::<Vec<i32>>("x").unwrap(), &[1, 2]);
        assert!(state.get::<String>("x").is_none());
    }
}
