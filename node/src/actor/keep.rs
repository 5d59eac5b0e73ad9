//! Looking after the store: checked, saved, replaced.
use super::{Actor, Internal};
use crate::clock;
use crate::handle::Answer;
use crate::store::backup::{self, BackupView, Header};
use crate::store::check::{self, StoreReport};
use crate::store::restore::{self, RestoreView};
use crate::store::{RawRow, SCHEMA, Store};
use protocol::Fault;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

impl Actor {
    /// The core's rows are read here, between two commits, so they are of one moment. The rest of the work is done
    /// beside: it may be a slow disk that the backup goes to.
    fn with_moment<T: Send + 'static>(
        &self,
        answer: Answer<T>,
        work: impl FnOnce(&Store, &[RawRow]) -> Result<T, Fault> + Send + 'static,
    ) {
        let (moment, store) = (self.store.moment(), Arc::clone(&self.store));
        tokio::task::spawn_blocking(move || {
            // Whoever asked may have gone.
            let _ = answer.send(moment.and_then(|moment| work(&store, &moment)));
        });
    }

    pub(super) fn check_store(&self, answer: Answer<StoreReport>) {
        self.with_moment(answer, check::check);
    }

    pub(super) fn back_up_store(&self, file: PathBuf, overwrite: bool, answer: Answer<BackupView>) {
        let header = Header { schema: SCHEMA, peer: self.core.me(), time_ms: clock::now().0 };
        self.with_moment(answer, move |store, state| backup::write(store, state, &header, &file, overwrite));
    }

    /// Made ready beside the store in use; the next start takes it up, so the node stops when it is.
    pub(super) fn restore_store(&self, file: PathBuf, answer: Answer<RestoreView>) {
        let (home, owner, internal) = (self.home.clone(), self.core.me(), self.internal.clone());
        tokio::spawn(async move {
            let staged = tokio::task::spawn_blocking(move || restore::stage(&home, owner, &file)).await;
            let staged = staged.unwrap_or_else(|error| Err(Fault::internal(format!("the restore ended: {error}"))));
            let stops = staged.is_ok();
            let _ = answer.send(staged);
            if stops {
                // One that stops already needs not be told.
                let _ = internal.send(Internal::Restored).await;
            }
        });
    }

    /// What happens from now on would be lost: nobody is waited for.
    pub(super) fn restored(&mut self) {
        tracing::warn!("a backup is ready to take the store's place: the node stops, and its next start takes it up");
        let (nobody, _) = oneshot::channel();
        self.stopping.get_or_insert(nobody);
    }
}
