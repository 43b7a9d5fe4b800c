//! Paths, and records of IPNS: what verifies says what the owner of the key signed.

use std::time::{Duration, UNIX_EPOCH};

use muxfs::{
    QfsPath, SecretKey,
    ipns::{IpnsName, NameKey, Record, Target},
};

use crate::{
    fuzz,
    make::{cid, damage, number, text},
};

const COUNT: u64 = 20_000;

#[test]
fn paths() {
    fuzz(COUNT, &["read", "refused"], |dice| {
        let mut path = b"/mem".to_vec();
        for _ in 0..dice.roll(5) {
            path.push(b'/');
            path.extend(if dice.roll(4) == 0 { cid(dice).to_string() } else { text(dice) }.into_bytes());
        }
        damage(dice, &mut path);
        let Ok(read) = QfsPath::parse(&path) else { return "refused" };
        assert_eq!(read.to_bytes(), path);
        assert!(read.parts.iter().all(|part| !matches!(part.as_bytes(), b"" | b"." | b"..")));
        "read"
    });
}

#[test]
fn records() {
    let keys: Vec<NameKey> = (1..4).map(|seed| NameKey::of_seed(SecretKey::new([seed; 32]))).collect();
    // A signature takes a hundred times as long as the rest.
    fuzz(COUNT / 10, &["read", "refused"], move |dice| {
        let key = &keys[dice.roll(keys.len())];
        let value = format!("/ipfs/{}/{}", cid(dice), dice.roll(10));
        let (sequence, ttl) = (number(dice), Duration::from_nanos(number(dice)));
        let expires = UNIX_EPOCH + Duration::from_secs(number(dice) % (200 << 30));
        let made = Record::create(key, value.as_bytes(), sequence, expires, ttl).expect("a record");
        let mut bytes = made.as_bytes().to_vec();
        let again = Record::verify(key.name(), &bytes).expect("its own");
        assert_eq!((again.value(), again.sequence(), again.ttl()), (value.as_bytes(), sequence, ttl));
        if dice.roll(8) > 0 {
            damage(dice, &mut bytes);
        }
        let other = &keys[dice.roll(keys.len())];
        let Ok(read) = Record::verify(other.name(), &bytes) else { return "refused" };
        assert_eq!(other.name(), key.name(), "another key signed it");
        assert_eq!(read.as_bytes(), &bytes);
        assert_eq!((read.value(), read.sequence(), read.ttl()), (made.value(), made.sequence(), made.ttl()));
        assert_eq!(read.expires(), again.expires());
        "read"
    });
}

#[test]
fn what_names_lead_to() {
    fuzz(COUNT, &["content", "name", "refused"], |dice| {
        let key = NameKey::of_seed(SecretKey::new([u8::try_from(dice.roll(256)).expect("a byte"); 32]));
        let mut value = match dice.roll(3) {
            0 => format!("/ipns/{}/{}", key.name(), text(dice)).into_bytes(),
            1 => cid(dice).to_bytes(),
            _ => format!("/ipfs/{}/{}", cid(dice), text(dice)).into_bytes(),
        };
        if dice.roll(2) == 0 {
            damage(dice, &mut value);
        }
        match Target::parse(&value) {
            Ok(Target::Content(cid, parts)) => {
                assert_eq!(cid.to_string().parse::<muxfs::Cid>().expect("a CID"), cid);
                assert!(parts.iter().all(|part| !matches!(part.as_bytes(), b"." | b"..")));
                "content"
            }
            Ok(Target::Name(name, _)) => {
                assert_eq!(name.to_string().parse::<IpnsName>().expect("a name"), name);
                "name"
            }
            Err(_) => "refused",
        }
    });
}
