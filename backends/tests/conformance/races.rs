//! Several calls at once, and calls that nobody waits for any more.
use super::{Case, STAGES, done, id};
use backends::{PowerState, Stage};
use futures::FutureExt;
use futures::future::join;
use std::task::Poll;
use tokio::sync::Notify;

/// Creates that are dropped as soon as they have begun: which thread comes first differs from one to the next.
const DROPPED_AT_ONCE: usize = 64;
const DROPPED_AT_ONCE_SLOW: usize = 2;

impl Case<'_> {
    pub(super) async fn several_at_once(&self) {
        let (backend, one, two) = (&self.backend, id(0x10), id(0x11));
        let (first, second) = (self.subject.order(one), self.subject.order(two));
        // What is being made is no wreck.
        let watch = async {
            for _ in 0..20 {
                for instance in done(backend.list().await, "list, while VMs are made") {
                    assert!(!matches!(instance.state, PowerState::Failed(_)), "{instance:?}");
                }
                tokio::task::yield_now().await;
            }
        };
        let made = join(backend.create(&first, &()), backend.create(&second, &()));
        let ((a, b), ()) = join(made, watch).await;
        done(a, "one of two");
        done(b, "the other of two");
        self.is_whole(&first).await;
        self.is_whole(&second).await;
        // Both go, and who looks on meanwhile is told what is there and no fault.
        let gone = join(backend.destroy(one), backend.destroy(two));
        let ((a, b), listed) = join(gone, backend.list()).await;
        done(a, "destroying one of two");
        done(b, "destroying the other");
        done(listed, "list, while VMs go");
        self.nothing_is_left("destroying two at once").await;
    }

    pub(super) async fn one_twice_at_once(&self) {
        let (backend, id) = (&self.backend, id(0x12));
        let order = self.subject.order(id);
        let (a, b) = join(backend.create(&order, &()), backend.create(&order, &())).await;
        done(a, "create");
        done(b, "the same create at the same time");
        self.is_whole(&order).await;
        assert_eq!(done(backend.list().await, "list").len(), 1);
        let (a, b) = join(backend.destroy(id), backend.destroy(id)).await;
        done(a, "destroy");
        done(b, "the same destroy at the same time");
        self.nothing_is_left("destroying one twice at once").await;
    }

    /// Whoever destroys last wins, whether the create was done, under way or about to begin.
    pub(super) async fn destroy_after_create(&self) {
        let (backend, id) = (&self.backend, id(0x13));
        let order = self.subject.order(id);
        let stages = if self.claims.slow { &[Stage::Disk, Stage::Boot][..] } else { &STAGES };
        for stage in stages.iter().copied() {
            let reached = Notify::new();
            let progress = |now: Stage| {
                if now == stage {
                    reached.notify_one()
                }
            };
            let destroy = async {
                reached.notified().await;
                backend.destroy(id).await
            };
            // Whether the create is told of its end differs; that nothing is left does not.
            let (_, destroyed) = join(backend.create(&order, &progress), destroy).await;
            done(destroyed, "destroying what is being made");
            assert_eq!(done(backend.get(id).await, "get"), None);
            self.nothing_is_left(&format!("destroying what is being made, at {}", stage.as_str())).await;
        }
        let (destroyed, created) = join(backend.destroy(id), backend.create(&order, &())).await;
        done(destroyed, "destroying what is not there yet");
        done(created, "create, after a destroy");
        self.is_whole(&order).await;
        self.destroy(id, "destroy").await;
    }

    pub(super) async fn a_dropped_create_is_destroyed(&self) {
        let (backend, id) = (&self.backend, id(0x14));
        let order = self.subject.order(id);
        for stage in STAGES {
            let reached = Notify::new();
            let progress = |now: Stage| {
                if now == stage {
                    reached.notify_one()
                }
            };
            let mut create = backend.create(&order, &progress);
            futures::future::poll_fn(|context| {
                let done = create.poll_unpin(context).is_ready();
                let told = std::pin::pin!(reached.notified()).poll_unpin(context).is_ready();
                if done || told { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            drop(create);
            self.destroy(id, &format!("a create dropped at {}", stage.as_str())).await;
        }
        let often = if self.claims.slow { DROPPED_AT_ONCE_SLOW } else { DROPPED_AT_ONCE };
        for _ in 0..often {
            let begun = backend.create(&order, &()).now_or_never();
            drop(begun);
            self.destroy(id, "a create dropped at once").await;
        }
        self.create(id).await;
        self.destroy(id, "destroy").await;
    }
}
