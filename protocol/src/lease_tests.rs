use super::*;
use crate::identity::Keypair;
use crate::names::IsolationWanted;
use crate::seed::Seed;
use crate::units::Resources;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const SECRET: &str = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n";

fn key(n: u8) -> Keypair {
    Keypair::from_secret(&[n; 32])
}
fn network() -> Network {
    "main".parse().unwrap()
}
fn seed() -> Seed {
    Seed {
        hostname: "web".parse().unwrap(),
        authorized_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ me@here".into()],
        host_key: SECRET.into(),
        user_data: None,
    }
}

struct Parts {
    quote: Sealed<Quote>,
    accept: Sealed<Accept>,
    grant: Sealed<Grant>,
    confirm: Sealed<Confirm>,
    active: Sealed<Active>,
}

/// A lease between the provider `p` and the requestor `r`, each step naming the one before.
fn parts(p: u8, r: u8, create: u8) -> Parts {
    let (provider, requestor) = (key(p).peer_id(), key(r).peer_id());
    let spec = VmSpec {
        resources: Resources::SMALL,
        image: "tiny".parse().unwrap(),
        isolation: IsolationWanted::Vm,
        arch: None,
        backend: None,
        ports: vec![],
        duration: Millis::secs(3600),
        or_less: false,
    };
    let quote = Quote {
        network: network(),
        provider,
        requestor,
        quote_id: QuoteId([create; 16]),
        boot_id: 1,
        spec,
        image_digest: Digest([1; 32]),
        guest_user: "root".parse().unwrap(),
        backend: "libvirt".parse().unwrap(),
        isolation: Isolation::Emulated,
        egress: Egress::None,
        price: Price { per_hour: "0.02".parse().unwrap(), currency: "EUR".parse().unwrap() },
        issued: NOW,
        hold_until: NOW + QUOTE_HOLD,
        contested: false,
    };
    let quote = Sealed::seal(quote, &key(p));
    let create_id = CreateId([create; 16]);
    let accept = Accept {
        network: network(),
        provider,
        requestor,
        quote_hash: quote.digest(),
        create_id,
        seed_hash: Digest::of(&seed().encode()),
        nonce: 1,
        expires: NOW + ACCEPT_LIFE,
    };
    let accept = Sealed::seal(accept, &key(r));
    let lease_id = LeaseId::derive(provider, requestor, create_id);
    let provisional_until = NOW + PROVISIONAL;
    let accept_hash = accept.digest();
    let grant = Grant { network: network(), provider, requestor, lease_id, accept_hash, provisional_until };
    let grant = Sealed::seal(grant, &key(p));
    let grant_hash = grant.digest();
    let confirm = Confirm { network: network(), provider, requestor, lease_id, grant_hash, expires: provisional_until };
    let confirm = Sealed::seal(confirm, &key(r));
    let (started_at, ends_at) = (NOW, NOW + Millis::secs(3600));
    let active = Active { network: network(), provider, requestor, lease_id, grant_hash, started_at, ends_at };
    Parts { active: Sealed::seal(active, &key(p)), quote, accept, grant, confirm }
}

fn document(parts: &Parts) -> LeaseDocument {
    LeaseDocument {
        version: LeaseDocument::VERSION,
        network: network(),
        quote: parts.quote.signed().into(),
        accept: parts.accept.signed().into(),
        grant: parts.grant.signed().into(),
        confirm: Some(parts.confirm.signed().into()),
        active: Some(parts.active.signed().into()),
        renewal: None,
    }
}
fn good() -> LeaseDocument {
    document(&parts(1, 2, 1))
}
fn refused(document: &LeaseDocument) -> Fault {
    document.verify().expect_err("it must be refused")
}

#[test]
fn a_lease_says_whether_it_is_active() {
    let lease = good().verify().unwrap();
    assert_eq!(lease.standing, LeaseStanding::Active);
    assert_eq!(lease.ends_at(), Some(NOW + Millis::secs(3600)));
    // Confirmed, but the provider's receipt has not arrived: active, without an end that anybody signed.
    let confirmed = LeaseDocument { active: None, ..good() }.verify().unwrap();
    assert_eq!((confirmed.standing, confirmed.ends_at()), (LeaseStanding::Active, None));
    let granted = LeaseDocument { active: None, confirm: None, ..good() }.verify().unwrap();
    assert_eq!(granted.standing, LeaseStanding::Provisional, "a grant that nobody confirmed is no lease");
    assert_eq!(granted.lease_id(), lease.lease_id());
    assert_eq!(
        refused(&LeaseDocument { confirm: None, ..good() }).code,
        ErrorCode::BadToken,
        "started, never confirmed"
    );
}

#[test]
fn a_start_for_another_time_than_was_quoted_is_no_part_of_the_lease() {
    let parts = parts(1, 2, 1);
    let late = Millis::secs(3601);
    for (started_at, ends_at) in [(NOW, NOW + Millis::secs(60)), (NOW, NOW + late), (NOW + late, NOW)] {
        let active = Active { started_at, ends_at, ..(*parts.active).clone() };
        let signed = Sealed::seal(active, &key(1));
        let fault = refused(&LeaseDocument { active: Some(signed.signed().into()), ..document(&parts) });
        assert!(fault.code == ErrorCode::BadToken && fault.message.contains("another time"), "{fault}");
    }
}

#[test]
fn every_part_of_another_lease_is_refused() {
    for (what, other) in [
        ("of another create", parts(1, 2, 9)),
        ("of another provider", parts(3, 2, 1)),
        ("of another tenant", parts(1, 3, 1)),
    ] {
        let other = document(&other);
        for (part, mixed) in [
            ("quote", LeaseDocument { quote: other.quote.clone(), ..good() }),
            ("accept", LeaseDocument { accept: other.accept.clone(), ..good() }),
            ("grant", LeaseDocument { grant: other.grant.clone(), ..good() }),
            ("confirm", LeaseDocument { confirm: other.confirm.clone(), ..good() }),
            ("active", LeaseDocument { active: other.active.clone(), ..good() }),
        ] {
            assert_eq!(refused(&mixed).code, ErrorCode::BadToken, "the {part} {what}");
        }
    }
}

#[test]
fn a_part_signed_by_the_wrong_side_is_refused() {
    // The tenant grants itself a lease, and the provider confirms in its tenant's name.
    let parts = parts(1, 2, 1);
    for (content, wrong) in [(parts.grant.signed(), 2), (parts.confirm.signed(), 1), (parts.active.signed(), 2)] {
        let mut forged = SignedText::from(content);
        let bytes = [content.domain.as_bytes(), b"\0", &content.body].concat();
        forged.signature = hex::encode(key(wrong).sign(&bytes));
        let with = |signer: PeerId| SignedText { signer, ..forged.clone() };
        for text in [with(content.signer), with(key(wrong).peer_id())] {
            let document = match content.domain.as_str() {
                "golemnode/grant/1" => LeaseDocument { grant: text, ..good() },
                "golemnode/confirm/1" => LeaseDocument { confirm: Some(text), ..good() },
                _ => LeaseDocument { active: Some(text), ..good() },
            };
            assert_eq!(refused(&document).code, ErrorCode::BadToken);
        }
    }
}

#[test]
fn every_changed_byte_is_noticed() {
    let good = good();
    let texts = [&good.quote, &good.accept, &good.grant, good.confirm.as_ref().unwrap(), good.active.as_ref().unwrap()];
    for (number, text) in texts.into_iter().enumerate() {
        let with = |text: SignedText| {
            let mut document = good.clone();
            match number {
                0 => document.quote = text,
                1 => document.accept = text,
                2 => document.grant = text,
                3 => document.confirm = Some(text),
                _ => document.active = Some(text),
            }
            document
        };
        let flip = |hex_text: &str, at: usize| {
            let mut bytes = hex::decode(hex_text).unwrap();
            bytes[at] ^= 1;
            hex::encode(bytes)
        };
        for at in (0..text.body.len() / 2).step_by(7) {
            refused(&with(SignedText { body: flip(&text.body, at), ..text.clone() }));
        }
        for at in (0..64).step_by(5) {
            refused(&with(SignedText { signature: flip(&text.signature, at), ..text.clone() }));
        }
        let unsigned = refused(&with(SignedText { signature: String::new(), ..text.clone() }));
        assert_eq!(unsigned.code, ErrorCode::Unsigned);
        assert_eq!(
            refused(&with(SignedText { domain: "golemnode/advert/1".into(), ..text.clone() })).code,
            ErrorCode::BadToken
        );
        assert_eq!(
            refused(&with(SignedText { body: "not hex".into(), ..text.clone() })).code,
            ErrorCode::InvalidRequest
        );
        refused(&with(SignedText { body: "00".repeat(SMALL + 1), ..text.clone() }));
    }
    assert_eq!(refused(&LeaseDocument { version: 2, ..good.clone() }).code, ErrorCode::UnknownVersion);
    assert_eq!(refused(&LeaseDocument { network: "other".parse().unwrap(), ..good }).code, ErrorCode::BadToken);
}

#[test]
fn a_lease_in_json_verifies_and_holds_no_secret() {
    let json = serde_json::to_string_pretty(&good()).unwrap();
    let read: LeaseDocument = serde_json::from_str(&json).unwrap();
    assert_eq!(read.verify().unwrap().standing, LeaseStanding::Active);
    // Neither as text nor as the hex of it, nor any part of the seed; its hash is there.
    for secret in [SECRET.as_bytes(), b"c2VjcmV0", b"ssh-ed25519", &seed().encode()] {
        assert!(!json.contains(&hex::encode(secret)), "hex of a secret");
        assert!(!json.as_bytes().windows(secret.len()).any(|window| window == secret), "a secret");
    }
    let hash = Digest::of(&seed().encode()).to_string();
    assert!(json.contains(&hex::encode(hash)));
}
