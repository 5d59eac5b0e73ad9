//! Power, reach, console, and a node that starts again.
use super::{Case, done, id, refused};
use backends::PowerState::{Running, Stopped, Suspended};
use protocol::ErrorCode;

impl Case<'_> {
    pub(super) async fn power(&self) {
        let (backend, id) = (&self.backend, id(0x04));
        self.create(id).await;
        done(backend.start(id).await, "starting what runs");
        for force in [true, false] {
            done(backend.stop(id, true).await, "stop by force");
            self.must_be(id, Stopped, "stop by force").await;
            done(backend.stop(id, force).await, "stopping what is stopped");
            self.must_be(id, Stopped, "stopping what is stopped").await;
        }
        refused(backend.endpoint(id, 22).await, ErrorCode::WrongState, "endpoint of what is stopped");
        done(backend.start(id).await, "start");
        self.must_be(id, Running, "start").await;
        done(backend.stop(id, true).await, "stop by force");
        done(backend.restart(id).await, "restarting what is stopped");
        self.must_be(id, Running, "restart").await;
        done(backend.stop(id, true).await, "stop by force");
        done(backend.create(&self.subject.order(id), &()).await, "creating what is stopped");
        self.must_be(id, Running, "creating what was stopped").await;
        done(backend.stop(id, true).await, "stop by force");
        self.destroy(id, "destroying what is stopped").await;
    }

    pub(super) async fn suspends_as_claimed(&self) {
        let (backend, id, wrong) = (&self.backend, id(0x05), ErrorCode::WrongState);
        self.create(id).await;
        if !self.claims.capabilities.suspend {
            refused(backend.suspend(id).await, ErrorCode::BackendCannot, "suspend");
            refused(backend.resume(id).await, ErrorCode::BackendCannot, "resume");
            return self.destroy(id, "destroy").await;
        }
        done(backend.resume(id).await, "resuming what runs");
        for _ in 0..2 {
            done(backend.suspend(id).await, "suspend");
            self.must_be(id, Suspended, "suspend").await;
        }
        refused(backend.start(id).await, wrong, "starting what is suspended");
        refused(backend.stop(id, false).await, wrong, "asking a guest that sleeps to shut down");
        refused(backend.endpoint(id, 22).await, wrong, "endpoint of what is suspended");
        done(backend.create(&self.subject.order(id), &()).await, "creating what is suspended");
        self.must_be(id, Suspended, "create, which leaves what is whole").await;
        done(backend.resume(id).await, "resume");
        self.must_be(id, Running, "resume").await;
        done(backend.suspend(id).await, "suspend");
        done(backend.stop(id, true).await, "stopping what is suspended by force");
        self.must_be(id, Stopped, "stop by force").await;
        refused(backend.suspend(id).await, wrong, "suspending what is stopped");
        refused(backend.resume(id).await, wrong, "resuming what is stopped");
        done(backend.start(id).await, "start");
        done(backend.suspend(id).await, "suspend");
        done(backend.restart(id).await, "restarting what is suspended");
        self.must_be(id, Running, "restart").await;
        done(backend.suspend(id).await, "suspend");
        self.destroy(id, "destroying what is suspended").await;
    }

    pub(super) async fn is_reached_while_it_runs(&self) {
        let (backend, id) = (&self.backend, id(0x06));
        self.create(id).await;
        if !self.claims.endpoint {
            refused(backend.endpoint(id, 22).await, ErrorCode::BackendCannot, "endpoint");
            return self.destroy(id, "destroy").await;
        }
        let first = done(backend.endpoint(id, 22).await, "endpoint");
        assert_eq!(done(backend.endpoint(id, 22).await, "endpoint again"), first, "it holds while the guest runs");
        assert!(first.port() > 0);
        let other = done(backend.endpoint(id, 8080).await, "endpoint of another port");
        assert!(other.port() > 0);
        done(backend.stop(id, true).await, "stop by force");
        refused(backend.endpoint(id, 22).await, ErrorCode::WrongState, "endpoint of what is stopped");
        done(backend.start(id).await, "start");
        let again = done(backend.endpoint(id, 22).await, "endpoint after another start");
        assert!(again.port() > 0);
        self.destroy(id, "destroy").await;
    }

    pub(super) async fn shows_the_console_as_claimed(&self) {
        let (backend, id) = (&self.backend, id(0x07));
        self.create(id).await;
        if !self.claims.capabilities.console {
            refused(backend.console_tail(id, 100).await, ErrorCode::BackendCannot, "console_tail");
            return self.destroy(id, "destroy").await;
        }
        let most = 1 << 20;
        if let Some(says) = self.claims.console_says {
            self.eventually("the guest's greeting", async || {
                let tail = done(backend.console_tail(id, most).await, "console_tail");
                String::from_utf8_lossy(&tail).contains(says).then_some(())
            })
            .await;
        }
        self.subject.ready(&**backend, id).await;
        let tail = done(backend.console_tail(id, most).await, "console_tail");
        let again = done(backend.console_tail(id, most).await, "console_tail again");
        assert!(again.starts_with(&tail), "reading takes nothing away");
        assert!(done(backend.console_tail(id, 0).await, "no bytes").is_empty());
        let few = done(backend.console_tail(id, 10).await, "ten bytes");
        assert!(few.len() <= 10);
        let again = done(backend.console_tail(id, most).await, "console_tail");
        if again == tail {
            assert!(tail.ends_with(&few), "the last bytes, and not the first");
        }
        self.destroy(id, "destroy").await;
    }

    pub(super) async fn obeys_a_polite_stop(&self) {
        let (backend, id) = (&self.backend, id(0x08));
        self.create(id).await;
        self.subject.ready(&**backend, id).await;
        done(backend.stop(id, false).await, "stop");
        self.must_be(id, Stopped, "stop").await;
        done(backend.start(id).await, "start");
        self.subject.ready(&**backend, id).await;
        done(backend.restart(id).await, "restart");
        self.must_be(id, Running, "restart").await;
        self.destroy(id, "destroy").await;
    }

    /// A second instance over the same host has the VMs of the first.
    pub(super) async fn after_a_restart(mut self) -> Self {
        let (running, stopped) = (id(0x09), id(0x0a));
        self.create(running).await;
        self.create(stopped).await;
        done(self.backend.stop(stopped, true).await, "stop by force");
        let before = [self.there(running).await, self.there(stopped).await];
        self.backend = self.subject.reopen(self.backend).await;
        let found = [self.there(running).await, self.there(stopped).await];
        assert_eq!(found, before, "resources, image and state are those of before");
        assert_eq!(done(self.backend.list().await, "list").len(), 2);
        done(self.backend.create(&self.subject.order(running), &()).await, "create, after a restart of the node");
        if self.claims.endpoint {
            done(self.backend.endpoint(running, 22).await, "endpoint, after a restart of the node");
        }
        done(self.backend.start(stopped).await, "start, after a restart of the node");
        self.must_be(stopped, Running, "start").await;
        done(self.backend.destroy(running).await, "destroy, after a restart of the node");
        self.destroy(stopped, "destroy, after a restart of the node").await;
        self
    }
}
