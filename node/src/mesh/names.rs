//! What this network calls its protocols: two networks share none, so they can never merge by accident.
use libp2p::StreamProtocol;
use libp2p::gossipsub::IdentTopic;
use libp2p::identity;
use protocol::PeerId;
use protocol::names::Network;

#[derive(Clone)]
pub struct Names {
    pub kad: StreamProtocol,
    pub control: StreamProtocol,
    pub tunnel: StreamProtocol,
    /// Gossipsub appends its own version.
    pub gossip_prefix: String,
    pub identify: String,
    board: String,
}

impl Names {
    pub fn of(network: &Network) -> Names {
        let name = |what: &str| {
            // A network's name holds nothing but letters, digits and dashes, and the rest begins with a slash.
            StreamProtocol::try_from_owned(format!("/golemnode/{network}/{what}")).expect("begins with a slash")
        };
        Names {
            kad: name("kad/1"),
            control: name("control/1"),
            tunnel: name("tunnel/1"),
            gossip_prefix: format!("/golemnode/{network}/gossip"),
            identify: format!("/golemnode/{network}/1"),
            board: format!("/golemnode/{network}/board/1"),
        }
    }
    /// Adverts travel on one topic for each shard of the board; while it is small there is only shard 0.
    pub fn board_topic(&self, shard: u32) -> IdentTopic {
        IdentTopic::new(format!("{}/{shard}", self.board))
    }
}

pub fn to_libp2p(peer: PeerId) -> libp2p::PeerId {
    libp2p::PeerId::from_bytes(&peer.to_multihash()).expect("an identity multihash of a key is a peer id")
}

/// None for peers whose key is not ed25519; those are refused before anything else sees them.
pub fn from_libp2p(peer: &libp2p::PeerId) -> Option<PeerId> {
    PeerId::from_multihash(&peer.to_bytes()).ok()
}

pub fn keypair(ours: &protocol::Keypair) -> identity::Keypair {
    let mut secret = ours.secret();
    // The library wipes the array it is given.
    identity::Keypair::ed25519_from_bytes(&mut secret).expect("32 bytes are an ed25519 secret")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_keys_agree_with_libp2p() {
        let ours = protocol::Keypair::from_secret(&[7; 32]);
        let theirs = keypair(&ours).public().to_peer_id();
        assert_eq!(to_libp2p(ours.peer_id()), theirs);
        assert_eq!(from_libp2p(&theirs), Some(ours.peer_id()));
        assert_eq!(theirs.to_string(), ours.peer_id().to_string());
    }

    #[test]
    fn networks_share_no_protocol() {
        let names = Names::of(&"main".parse().unwrap());
        assert_eq!(names.control.as_ref(), "/golemnode/main/control/1");
        assert_eq!(names.board_topic(0).to_string(), "/golemnode/main/board/1/0");
        assert_ne!(names.kad, Names::of(&"test".parse().unwrap()).kad);
    }
}
