//! What an IPFS gateway must answer, request by request.
//!
//! `gateway-cases.json` has requests with what is expected, made from the conformance suite of IPFS gateways; the CAR files
//! that they are about lie beside it. Each case gets a server of its own that holds the blocks of its CAR and nothing else.
//! Where they are not there the test is skipped, and says so.

mod web;

use std::{env, fs, path::PathBuf};

use serde_json::Value;

use self::web::{Reply, Site, read_car};

/// The folder of data: below `MUXFS_SHARED`, or below a folder `shared` beside the repository.
fn data() -> Option<PathBuf> {
    let beside = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    let folder = env::var_os("MUXFS_SHARED").map_or(beside, PathBuf::from).join("data");
    if folder.join("gateway-cases.json").is_file() {
        return Some(folder);
    }
    muxfs::testing::skip(format_args!("no gateway cases at {}; set MUXFS_SHARED to where they are", folder.display()));
    None
}

fn query(query: &Value) -> String {
    let pairs = query.as_object().expect("a query").iter();
    let pairs = pairs.map(|(key, value)| format!("{key}={}", value.as_str().expect("text")));
    let pairs: Vec<_> = pairs.collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
    digits.map(|pair| u8::from_str_radix(pair, 16).expect("hex")).collect()
}

/// What of `expected` a reply does not meet; an unknown expectation is not met.
fn faults(reply: &Reply, expected: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    let mut check = |holds: bool, what: String| {
        if !holds {
            faults.push(what);
        }
    };
    let header = |name: &str| reply.header(name).unwrap_or_default().to_owned();
    for (key, value) in expected.as_object().expect("expectations") {
        match key.as_str() {
            "status" => check(Some(reply.status.into()) == value.as_u64(), format!("status {}", reply.status)),
            "status_not" => check(Some(reply.status.into()) != value.as_u64(), format!("status {}", reply.status)),
            // Something else would do as well.
            "or_aborted_stream" => {}
            "body_hex" => {
                let body = unhex(value.as_str().expect("hex"));
                check(reply.body == body, format!("body {}", reply.body.escape_ascii()));
            }
            "headers" => {
                for (name, value) in value.as_object().expect("headers") {
                    let found = header(name);
                    check(Some(found.as_str()) == value.as_str(), format!("{name}: {found}"));
                }
            }
            "headers_contain" => {
                for (name, value) in value.as_object().expect("headers") {
                    let found = header(name);
                    check(found.contains(value.as_str().expect("text")), format!("{name}: {found}"));
                }
            }
            "content_type_contains" => {
                for value in value.as_array().expect("texts") {
                    let found = header("content-type");
                    check(found.contains(value.as_str().expect("text")), format!("Content-Type: {found}"));
                }
            }
            "cache_control_absent_or" => {
                let found = reply.header("cache-control");
                check(found.is_none() || found == value.as_str(), format!("Cache-Control: {found:?}"));
            }
            "trailer_or_header_not_empty" => check(reply.header(value.as_str().expect("text")).is_some(), key.clone()),
            "car" => match reply.status {
                200 => car_faults(reply, value).into_iter().for_each(|fault| check(false, fault)),
                status => check(false, format!("status {status} instead of a CAR")),
            },
            other => check(false, format!("the test does not know what {other} means")),
        }
    }
    faults
}

fn car_faults(reply: &Reply, expected: &Value) -> Vec<String> {
    if !reply.is_whole {
        return vec!["the CAR broke off".into()];
    }
    let (roots, blocks) = read_car(&reply.body);
    let text = |cids: &[muxfs::Cid]| cids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (roots, mut blocks) = (text(&roots), text(&blocks));
    let list = |value: &Value| {
        let items = value.as_array().expect("a list").iter();
        items.map(|cid| cid.as_str().expect("a CID").to_owned()).collect::<Vec<_>>()
    };
    let mut faults = Vec::new();
    let mut wanted = list(&expected["blocks"]);
    if expected["in_order"] != true {
        blocks.sort();
        wanted.sort();
    }
    let is_met =
        if expected["exact"] == true { blocks == wanted } else { wanted.iter().all(|cid| blocks.contains(cid)) };
    if !is_met {
        faults.push(format!("{} blocks: {blocks:?}", blocks.len()));
    }
    match &expected["roots"] {
        Value::Array(_) if roots != list(&expected["roots"]) => faults.push(format!("roots {roots:?}")),
        _ => {}
    }
    faults
}

#[tokio::test]
async fn a_gateway_answers_as_gateways_do() {
    let Some(data) = data() else { return };
    let cases = fs::read(data.join("gateway-cases.json")).expect("reads");
    let cases: Value = serde_json::from_slice(&cases).expect("JSON");
    let (mut met, mut broken) = (0, Vec::new());
    for case in cases["cases"].as_array().expect("cases") {
        let name = case["name"].as_str().expect("a name");
        let site = Site::new().await;
        if let Some(fixture) = case["fixture"].as_str() {
            site.load(&fs::read(data.join("fixtures").join(fixture)).expect("a fixture")).await;
        }
        let request = &case["request"];
        let text = |key: &str| request[key].as_str().expect("text");
        let headers = request["headers"].as_object().expect("headers").iter();
        let headers: Vec<_> = headers.map(|(name, value)| (name.as_str(), value.as_str().expect("text"))).collect();
        let path = format!("{}{}", text("path"), query(&request["query"]));
        let reply = site.ask(text("method"), &path, &headers).await;

        let mut ways = vec![&case["expect"]];
        ways.extend(case["or"].as_array().into_iter().flatten());
        let faults: Vec<_> = ways.into_iter().map(|way| faults(&reply, way)).collect();
        if faults.iter().any(Vec::is_empty) {
            met += 1;
            println!("met: {name}");
        } else {
            broken.push(format!("{name}: {path}: {faults:?}"));
        }
        site.server.shutdown().await;
    }
    println!("{met} cases are met, {} are not", broken.len());
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(met > 0, "no case was run");
}
