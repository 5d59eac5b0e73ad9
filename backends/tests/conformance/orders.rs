//! `create`: what it refuses, what it leaves, what it mends.
use super::{Case, STAGES, done, id, refused};
use backends::{InstanceOrder, PowerState, Stage};
use protocol::ErrorCode;
use protocol::names::Digest;
use std::sync::Mutex;

impl Case<'_> {
    pub(super) async fn bad_orders_leave_nothing(&self) {
        let (subject, backend, id) = (self.subject, &self.backend, id(0x02));
        let good = subject.order(id);
        let unknown = InstanceOrder { image: "no-such-image".parse().unwrap(), ..good.clone() };
        let changed = InstanceOrder { image_digest: Digest([0; 32]), ..good.clone() };
        let mut bad = vec![(unknown, ErrorCode::NoSuchImage), (changed, ErrorCode::ChecksumMismatch)];
        bad.extend(subject.bad_orders(id));
        for (order, code) in bad {
            refused(backend.create(&order, &()).await, code, "create");
            assert_eq!(done(backend.get(id).await, "get"), None);
            self.nothing_is_left("a create that faulted").await;
        }
        for stage in STAGES.into_iter().filter(|stage| subject.fault_next(*stage)) {
            refused(backend.create(&good, &()).await, ErrorCode::CreateFailed, stage.as_str());
            self.nothing_is_left(stage.as_str()).await;
        }
        // What has failed can be had when the reason is gone.
        let told = Mutex::new(Vec::new());
        done(backend.create(&good, &|stage: Stage| told.lock().unwrap().push(stage)).await, "create");
        assert_eq!(*told.lock().unwrap(), STAGES, "each stage is told of, in order");
        let made = self.is_whole(&good).await;

        // Again: no fault and no change, not even with an order that could not be met now.
        done(backend.create(&good, &()).await, "create again");
        let changed = InstanceOrder { image_digest: Digest([0; 32]), ..good };
        done(backend.create(&changed, &()).await, "create again, with another image");
        assert_eq!(self.there(id).await, made);
        self.destroy(id, "destroy").await;
        self.destroy(id, "destroy again").await;
    }

    pub(super) async fn half_made_ones_are_made_anew(&self) {
        let (subject, backend, id) = (self.subject, &self.backend, id(0x03));
        let mut way = 0;
        loop {
            self.create(id).await;
            if !subject.halve(&**backend, id, way).await {
                break;
            }
            let half = self.there(id).await;
            assert!(matches!(half.state, PowerState::Failed(_)), "way {way}: {half:?}");
            refused(backend.start(id).await, ErrorCode::WrongState, "starting what is half made");
            if way % 2 == 0 {
                done(backend.create(&subject.order(id), &()).await, "create over a half-made one");
                self.is_whole(&subject.order(id)).await;
            }
            self.destroy(id, "destroying what was half made").await;
            way += 1;
        }
        assert!(way > 0, "there is a way to halve a VM");
        self.destroy(id, "destroy").await;
    }
}
