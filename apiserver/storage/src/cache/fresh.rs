//! One read of the newest revision for all who ask for it at the same time.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::error::StoreError;
use crate::store::{Revision, Store};

pub(super) struct SingleFlight {
    store: Arc<dyn Store>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    running: bool,
    /// Who waits for the next read. The one under way began before they asked, so it is no answer to them.
    waiting: Vec<oneshot::Sender<Result<Revision, String>>>,
}

impl SingleFlight {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        SingleFlight {
            store,
            state: Arc::default(),
        }
    }

    /// A revision that is at least that of every write acknowledged before the call.
    pub(super) async fn revision(&self) -> Result<Revision, StoreError> {
        let (sender, receiver) = oneshot::channel();
        let start = {
            let mut state = self.state.lock();
            state.waiting.push(sender);
            !std::mem::replace(&mut state.running, true)
        };
        if start {
            // A task of its own: the request that started it may be dropped, the others still want their answer.
            tokio::spawn(run(self.store.clone(), self.state.clone()));
        }
        match receiver.await {
            Ok(Ok(revision)) => Ok(revision),
            Ok(Err(error)) => Err(StoreError::Unavailable(error)),
            Err(_) => Err(StoreError::Unavailable("shutting down".to_owned())),
        }
    }
}

async fn run(store: Arc<dyn Store>, state: Arc<Mutex<State>>) {
    loop {
        let waiting = {
            let mut state = state.lock();
            if state.waiting.is_empty() {
                state.running = false;
                return;
            }
            std::mem::take(&mut state.waiting)
        };
        let answer = store.current_revision().await.map_err(|e| e.to_string());
        for sender in waiting {
            // Who does not wait any more needs no answer.
            let _ = sender.send(answer.clone());
        }
    }
}
