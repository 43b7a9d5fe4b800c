//! CIDs, dag-cbor, dag-json, dag-pb and `UnixFS`: what is decoded encodes to the same bytes.

use bytes::Bytes;
use muxfs::{
    Cid, Codec,
    dag::{cbor, json, linked, pb::PbNode, unixfs::UnixfsData},
};

use crate::{
    fuzz,
    make::{cid_bytes, damage, ipld, node, unixfs},
};

/// How many inputs are tried where nobody says.
const COUNT: u64 = 20_000;

#[test]
fn binary_cids() {
    fuzz(COUNT, &["read", "refused"], |dice| {
        let mut bytes = cid_bytes(dice);
        if dice.roll(2) == 0 {
            damage(dice, &mut bytes);
        }
        let Ok(cid) = Cid::from_bytes(&bytes) else { return "refused" };
        assert_eq!(cid.to_bytes(), bytes);
        assert_eq!(cid.to_string().parse::<Cid>().expect("its text"), cid);
        "read"
    });
}

/// Text that is read is what its bytes are in the base that it says.
#[test]
fn text_cids() {
    fuzz(COUNT, &["read", "refused"], |dice| {
        let bytes = cid_bytes(dice);
        let code = char::from(b"bBkKzfFuUmMvVtTcC"[dice.roll(17)]);
        let base = multibase::Base::from_code(code).expect("a base");
        let mut text = if bytes.starts_with(&[0x12]) && dice.roll(4) > 0 {
            multibase::Base::Base58Btc.encode(&bytes).into_bytes()
        } else {
            multibase::encode(base, &bytes).into_bytes()
        };
        if dice.roll(2) == 0 {
            damage(dice, &mut text);
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        let Ok(cid) = text.parse::<Cid>() else { return "refused" };
        let again = if cid.version() == 0 {
            multibase::Base::Base58Btc.encode(cid.to_bytes())
        } else {
            let base = text.chars().next().map(multibase::Base::from_code).expect("a prefix").expect("a base");
            multibase::encode(base, cid.to_bytes())
        };
        assert_eq!(again, text);
        let in_path = text.starts_with(['b', 'B', 'k', 'K', 'z', 'f', 'F', 'u', 'Q']);
        assert_eq!(Cid::parse_in_path(&text).is_ok(), in_path);
        "read"
    });
}

#[test]
fn dag_cbor() {
    fuzz(COUNT, &["read", "refused"], |dice| {
        let mut block = cbor::encode(&ipld(dice, 5)).expect("a value");
        if dice.roll(8) > 0 {
            damage(dice, &mut block);
        }
        let Ok(value) = cbor::decode(&block) else { return "refused" };
        assert_eq!(cbor::encode(&value).expect("decoded"), block);
        "read"
    });
}

#[test]
fn dag_json() {
    fuzz(COUNT, &["read", "refused"], |dice| {
        // A map that would be read as a link cannot be written.
        let Ok(mut block) = json::encode(&ipld(dice, 5)) else { return "no form" };
        if dice.roll(8) > 0 {
            damage(dice, &mut block);
        }
        let Ok(value) = json::decode(&block) else { return "refused" };
        assert_eq!(json::encode(&value).expect("decoded"), block);
        "read"
    });
}

#[test]
fn dag_pb() {
    fuzz(COUNT, &["read", "another order", "refused"], |dice| {
        let node = node(dice, &[]);
        let mut block = node.encode().to_vec();
        if dice.roll(6) == 0 {
            // As some write it.
            let data = PbNode { links: Vec::new(), data: node.data.clone() }.encode();
            block = [&data[..], &PbNode { data: None, ..node }.encode()].concat();
        }
        if dice.roll(8) > 0 {
            damage(dice, &mut block);
        }
        let block = Bytes::from(block);
        let decoded = PbNode::decode(&block);
        let value = linked::decode(Codec::DagPb, &block);
        assert_eq!(value.is_ok(), decoded.is_ok(), "both read the same node");
        let Ok(decoded) = decoded else { return "refused" };
        let again = decoded.encode();
        assert_eq!(decoded.encoded_len(), again.len());
        assert_eq!(PbNode::decode(&again).expect("encoded"), decoded);
        if let Ok(linked) = linked::encode(Codec::DagPb, &value.expect("decoded")) {
            assert_eq!(linked, again, "a value that can be written is the node");
        }
        // Others may have the data before the links.
        if again == block {
            return "read";
        }
        assert!(block.starts_with(b"\x0a") && again.len() == block.len());
        "another order"
    });
}

/// Fields may be in any order, packed or unknown: written again they are in ours, and mean the same.
#[test]
fn unixfs_messages() {
    fuzz(COUNT, &["read", "refused"], |dice| {
        let link_count = dice.roll(6);
        let mut message = unixfs(dice, link_count).encode();
        if dice.roll(8) > 0 {
            damage(dice, &mut message);
        }
        let Ok(decoded) = UnixfsData::decode(&message.into()) else { return "refused" };
        let again = Bytes::from(decoded.encode());
        assert_eq!(UnixfsData::decode(&again).expect("encoded"), decoded);
        "read"
    });
}
