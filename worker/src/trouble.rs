//! What keeps an engine from working once it is loaded: told by the engine, shown in `/state`.

use std::sync::Arc;

use tokio::sync::watch;

use crate::model::LoadError;
use crate::state::{Part, State};

/// The one thing that keeps an engine from working, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Troubles(Arc<watch::Sender<Option<LoadError>>>);

impl Troubles {
    /// Something does.
    pub fn tell(&self, trouble: LoadError) {
        self.0.send_if_modified(|told| {
            let news = told.as_ref() != Some(&trouble);
            *told = Some(trouble);
            news
        });
    }

    /// Nothing does.
    pub fn clear(&self) {
        self.0.send_if_modified(|told| told.take().is_some());
    }

    /// Shows it as the problem of `part` for as long as somebody may tell.
    pub fn show(self, state: Arc<State>, part: Part) -> impl Future<Output = ()> {
        let mut told = self.0.subscribe();
        drop(self);
        async move {
            while told.changed().await.is_ok() {
                match told.borrow_and_update().clone() {
                    None => drop(state.clear_problem(part)),
                    Some(LoadError { reason, message }) => {
                        if state.set_problem(part, reason, &message) {
                            tracing::warn!(reason, "{message}");
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_is_shown_as_long_as_it_is_one() {
        let (state, troubles) = (Arc::new(State::new("w".into(), 1)), Troubles::default());
        let shown = tokio::spawn(troubles.clone().show(Arc::clone(&state), Part::Model));
        let reasons = || state.problems().into_iter().map(|problem| problem.reason).collect::<Vec<_>>();
        troubles.tell(LoadError { reason: "ServerOverloaded", message: "503".into() });
        while reasons() != ["ServerOverloaded"] {
            tokio::task::yield_now().await;
        }
        troubles.clear();
        while !reasons().is_empty() {
            tokio::task::yield_now().await;
        }
        drop(troubles);
        shown.await.unwrap();
    }
}
