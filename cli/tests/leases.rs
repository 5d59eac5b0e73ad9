//! `lease verify` needs neither a node nor the network: documents made here by the protocol's own types.
use super::{golemnode, stderr, stdout};
use protocol::Keypair;
use protocol::envelope::Sealed;
use protocol::lease::{Accept, Active, Confirm, Grant, LeaseDocument, PROVISIONAL, Quote, SignedText};
use protocol::money::{Amount, Price};
use protocol::names::{CreateId, Digest, Egress, Isolation, IsolationWanted, LeaseId, Network, QuoteId};
use protocol::spec::VmSpec;
use protocol::units::{Millis, Resources, Timestamp};
use std::path::Path;

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn document() -> LeaseDocument {
    let (p, r) = (Keypair::from_secret(&[1; 32]), Keypair::from_secret(&[2; 32]));
    let (provider, requestor) = (p.peer_id(), r.peer_id());
    let network: Network = "main".parse().unwrap();
    let create_id = CreateId([3; 16]);
    let quote = Quote {
        network: network.clone(),
        provider,
        requestor,
        quote_id: QuoteId([4; 16]),
        boot_id: 7,
        spec: VmSpec {
            resources: Resources::SMALL,
            image: "tiny".parse().unwrap(),
            isolation: IsolationWanted::Vm,
            arch: None,
            backend: None,
            ports: vec![80],
            duration: Millis::secs(7200),
            or_less: false,
        },
        image_digest: Digest([5; 32]),
        guest_user: "root".parse().unwrap(),
        backend: "libvirt".parse().unwrap(),
        isolation: Isolation::Emulated,
        egress: Egress::None,
        price: Price { per_hour: "0.02".parse::<Amount>().unwrap(), currency: "EUR".parse().unwrap() },
        issued: NOW,
        hold_until: NOW + Millis::secs(30),
        contested: false,
    };
    let quote = Sealed::seal(quote, &p);
    let accept = Accept {
        network: network.clone(),
        provider,
        requestor,
        quote_hash: quote.digest(),
        create_id,
        seed_hash: Digest([6; 32]),
        nonce: 1,
        expires: NOW + Millis::secs(30),
    };
    let accept = Sealed::seal(accept, &r);
    let lease_id = LeaseId::derive(provider, requestor, create_id);
    let accept_hash = accept.digest();
    let provisional_until = NOW + PROVISIONAL;
    let grant = Grant { network: network.clone(), provider, requestor, lease_id, accept_hash, provisional_until };
    let grant = Sealed::seal(grant, &p);
    let grant_hash = grant.digest();
    let expires = NOW + Millis::secs(30);
    let confirm = Confirm { network: network.clone(), provider, requestor, lease_id, grant_hash, expires };
    let confirm = Sealed::seal(confirm, &r);
    let ends_at = NOW + Millis::secs(7200);
    let active =
        Active { network: network.clone(), provider, requestor, lease_id, grant_hash, started_at: NOW, ends_at };
    let active = Sealed::seal(active, &p);
    LeaseDocument {
        version: LeaseDocument::VERSION,
        network,
        quote: SignedText::from(quote.signed()),
        accept: SignedText::from(accept.signed()),
        grant: SignedText::from(grant.signed()),
        confirm: Some(SignedText::from(confirm.signed())),
        active: Some(SignedText::from(active.signed())),
        renewal: None,
    }
}

fn verify(dir: &Path, text: &str) -> std::process::Output {
    let file = dir.join("lease.json");
    std::fs::write(&file, text).unwrap();
    golemnode(dir, &["lease", "verify", file.to_str().unwrap(), "--json"])
}

fn standing(output: &std::process::Output) -> serde_json::Value {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    let said: serde_json::Value = serde_json::from_str(&stdout(output)).unwrap();
    said["standing"].clone()
}

#[test]
fn a_good_lease_is_active_and_an_unconfirmed_one_only_provisional() {
    let dir = tempfile::tempdir().unwrap();
    let good = document();
    assert_eq!(standing(&verify(dir.path(), &serde_json::to_string(&good).unwrap())), "active");
    let unconfirmed = LeaseDocument { confirm: None, active: None, ..good.clone() };
    assert_eq!(standing(&verify(dir.path(), &serde_json::to_string(&unconfirmed).unwrap())), "provisional");

    let file = dir.path().join("lease.json");
    let shown = golemnode(dir.path(), &["lease", "verify", file.to_str().unwrap()]);
    assert!(stdout(&shown).contains("provisional") && stderr(&shown).contains("makes no lease"));
    std::fs::write(&file, serde_json::to_string(&good).unwrap()).unwrap();
    let shown = stdout(&golemnode(dir.path(), &["lease", "verify", file.to_str().unwrap()]));
    for part in ["active", "0.02 EUR/h", "12D3KooW", &Digest([6; 32]).to_string(), "2027-01-15T10:00:00.000Z"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!dir.path().join("api.sock").exists());
}

#[test]
fn a_tampered_lease_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let good = document();
    let flip = |text: &str| format!("{}{}", if text.starts_with('0') { '1' } else { '0' }, &text[1..]);
    let body = |text: &SignedText| SignedText { body: flip(&text.body), ..text.clone() };
    let sign = |text: &SignedText| SignedText { signature: flip(&text.signature), ..text.clone() };
    let other = Keypair::from_secret(&[9; 32]).peer_id();
    let cases = [
        ("quote's body", LeaseDocument { quote: body(&good.quote), ..good.clone() }),
        ("accept's signature", LeaseDocument { accept: sign(&good.accept), ..good.clone() }),
        ("signer", LeaseDocument { grant: SignedText { signer: other, ..good.grant.clone() }, ..good.clone() }),
        ("parts swapped", LeaseDocument { accept: good.grant.clone(), ..good.clone() }),
        ("network", LeaseDocument { network: "test".parse().unwrap(), ..good.clone() }),
        ("started unconfirmed", LeaseDocument { confirm: None, ..good.clone() }),
    ];
    for (what, document) in cases {
        let output = verify(dir.path(), &serde_json::to_string(&document).unwrap());
        assert_eq!(output.status.code(), Some(4), "{what}: {}", stderr(&output));
        let said: serde_json::Value = serde_json::from_str(&stderr(&output)).unwrap();
        assert_eq!(said["error"]["code"], "AUTH_001", "{what}");
        assert_eq!(stdout(&output), "", "{what}");
    }
    let unsigned = LeaseDocument { quote: SignedText { signature: String::new(), ..good.quote.clone() }, ..good };
    let output = verify(dir.path(), &serde_json::to_string(&unsigned).unwrap());
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains("AUTH_003"));
    assert_eq!(verify(dir.path(), "not json").status.code(), Some(2));
}
