//! Providers who do not give what they offer. Each is on the board, cheap and large, and answers what it is asked.
use node::clock::now;
use node::mesh::{self, MeshConfig, MeshEvent, MeshHandle, Verdict};
use protocol::advert::{Advert, Terms};
use protocol::board::Posting;
use protocol::envelope::{Sealed, Signed};
use protocol::lease::{Accept, Grant, PROVISIONAL, QUOTE_HOLD, Quote};
use protocol::message::{Frame, QuoteReq, Request, Response};
use protocol::money::{Amount, Price};
use protocol::names::{Arch, Digest, Egress, Isolation, LeaseId, Network, QuoteId};
use protocol::refusal::Refusal;
use protocol::units::{Overcommit, Resources};
use protocol::{Keypair, PeerId};
use tokio::sync::mpsc;

const LARGE: Resources = Resources::new(64, 1 << 18, 4096);
const SMALL: Resources = Resources::new(1, 64, 1);

fn free_of_charge() -> Price {
    Price { per_hour: Amount::default(), currency: "EUR".parse().expect("a currency") }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Has not what its advert says.
    Boasts,
    /// Quotes less than was asked for.
    GivesLess,
    /// Signs a grant, and then knows nothing of it.
    Forgets,
    /// Answers nothing.
    IsSilent,
}

pub struct Liar {
    mesh: MeshHandle,
    events: mpsc::Receiver<MeshEvent>,
    key: Keypair,
    network: Network,
    lie: Lie,
}

impl Liar {
    /// On the board of this node.
    pub async fn join(lie: Lie, addr: &str, node: PeerId, network: &Network, image: &str) -> Liar {
        let key = Keypair::from_secret(&[0x60 + lie as u8; 32]);
        let config = MeshConfig {
            bootstrap: vec![addr.to_owned()],
            server: false,
            mdns: false,
            ..MeshConfig::new(key.clone(), network.clone())
        };
        let (mesh, mut events) = mesh::spawn(config).await.expect("a mesh");
        let there = async { while !matches!(events.recv().await, Some(MeshEvent::PeerConnected(_)) | None) {} };
        tokio::time::timeout(super::PATIENCE, there).await.expect("the node takes a provider");
        let liar = Liar { mesh, events, key, network: network.clone(), lie };
        let advert = Sealed::seal(liar.advert(image), &liar.key).signed().clone();
        let post = Frame::encode(now(), Request::Post(Posting::Advert(advert)));
        liar.mesh.send(node, post).await.expect("it can be said");
        liar
    }

    pub fn peer_id(&self) -> PeerId {
        self.key.peer_id()
    }

    fn advert(&self, image: &str) -> Advert {
        let terms = Terms {
            name: None,
            country: None,
            arch: Arch::X86_64,
            backend: "libvirt".parse().expect("a backend"),
            isolation: Isolation::Emulated,
            egress: Egress::None,
            free: LARGE,
            largest: LARGE,
            overcommit_cpu: Overcommit::default(),
            price: free_of_charge(),
            images: vec![image.parse().expect("an image")],
        };
        let issued = now();
        Advert {
            network: self.network.clone(),
            provider: self.peer_id(),
            seq: issued.0,
            issued,
            addrs: Vec::new(),
            terms,
        }
    }

    /// Until it is dropped.
    pub async fn lie(mut self) {
        while let Some(event) = self.events.recv().await {
            match event {
                MeshEvent::Request { token, from, body, .. } => {
                    let Ok(Frame { body, .. }) = Frame::<Request>::decode(&body) else { continue };
                    if let Some(answer) = self.answer(from, body) {
                        let _ = self.mesh.reply(token, Frame::encode(now(), answer)).await;
                    }
                }
                MeshEvent::Gossip { id, .. } => drop(self.mesh.judge(id, Verdict::Ignore).await),
                _ => {}
            }
        }
    }

    fn answer(&self, from: PeerId, request: Request) -> Option<Response> {
        match (self.lie, request) {
            (Lie::IsSilent, _) => None,
            (Lie::Boasts, Request::Quote(QuoteReq { spec, .. })) => {
                let (asked, free) = (spec.resources, SMALL);
                Some(Response::Refused(Refusal::Exhausted { asked, free, retry_after_s: None }))
            }
            (_, Request::Quote(question)) => Some(Response::Quote(self.quote(from, question))),
            (Lie::Forgets, Request::Accept(accept)) => {
                let accept: Sealed<Accept> = accept.open(&self.network).ok()?;
                Some(Response::Granted(self.grant(&accept)))
            }
            (_, Request::Release(id) | Request::Status(id)) => Some(Response::Refused(Refusal::NoSuchLease(id))),
            (_, Request::Confirm(_)) => Some(Response::Refused(Refusal::NotProviding)),
            _ => None,
        }
    }

    fn quote(&self, requestor: PeerId, QuoteReq { create_id, mut spec }: QuoteReq) -> Signed {
        if self.lie == Lie::GivesLess {
            spec.resources = SMALL;
        }
        let issued = now();
        let quote = Quote {
            network: self.network.clone(),
            provider: self.peer_id(),
            requestor,
            quote_id: QuoteId(create_id.0),
            boot_id: 1,
            spec,
            image_digest: Digest([1; 32]),
            guest_user: "root".parse().expect("a user"),
            backend: "libvirt".parse().expect("a backend"),
            isolation: Isolation::Emulated,
            egress: Egress::None,
            price: free_of_charge(),
            issued,
            hold_until: issued + QUOTE_HOLD,
            contested: false,
        };
        Sealed::seal(quote, &self.key).signed().clone()
    }

    fn grant(&self, accept: &Sealed<Accept>) -> Signed {
        let (provider, requestor) = (self.peer_id(), accept.requestor);
        let grant = Grant {
            network: self.network.clone(),
            provider,
            requestor,
            lease_id: LeaseId::derive(provider, requestor, accept.create_id),
            accept_hash: accept.digest(),
            provisional_until: now() + PROVISIONAL,
        };
        Sealed::seal(grant, &self.key).signed().clone()
    }
}
