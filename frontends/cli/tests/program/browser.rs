//! The pages of the server in a real browser: a headless Chromium, driven through its `DevTools` protocol over two pipes.
//!
//! Skipped, and said so, where there is no Chromium.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::Instant,
};

use serde_json::{Value, json};

use crate::{PATIENCE, World, webdav::ask};

/// A browser with one page.
struct Browser {
    child: Child,
    to: File,
    from: Receiver<Value>,
    session: Option<String>,
    count: u64,
    /// What its pages complained of: exceptions, and what their policy kept from them.
    wrong: Vec<String>,
}

impl Browser {
    /// Starts Chromium; `None` where there is none.
    fn start(dir: &Path) -> Option<Self> {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        let is_there =
            |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|told| told.status.success());
        let Some(name) = names.iter().find(is_there) else {
            muxfs::testing::skip("there is no chromium");
            return None;
        };
        let pipes = [dir.join("to"), dir.join("from")];
        assert!(Command::new("mkfifo").args(&pipes).status().expect("it runs").success());
        // What it says and hears goes through the file descriptors 3 and 4, which a shell opens.
        let mut command = Command::new("sh");
        command.args(["-c", "in=$1; out=$2; shift 2; exec \"$@\" 3<\"$in\" 4>\"$out\"", "sh"]).args(&pipes);
        command.args([
            name,
            "--headless=new",
            "--remote-debugging-pipe",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
        ]);
        command.args(["--disable-dev-shm-usage", "--disable-background-networking", "--no-proxy-server"]);
        command.arg(format!("--user-data-dir={}", dir.join("profile").display())).arg("about:blank");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it runs");
        let to = File::options().write(true).open(&pipes[0]).expect("opened");
        let mut heard = BufReader::new(File::open(&pipes[1]).expect("opened"));
        let (tell, from) = channel();
        std::thread::spawn(move || {
            let mut message = Vec::new();
            while heard.read_until(0, &mut message).is_ok_and(|len| len > 0) {
                message.pop();
                if tell.send(serde_json::from_slice(&message).expect("JSON")).is_err() {
                    break;
                }
                message.clear();
            }
        });
        let mut browser = Self { child, to, from, session: None, count: 0, wrong: Vec::new() };
        let page = browser.call("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": page["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", &attach)["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "DOM"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.count += 1;
        let mut message = json!({ "id": self.count, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = session.as_str().into();
        }
        self.to.write_all(&[message.to_string().as_bytes(), b"\0"].concat()).expect("sent");
        loop {
            let told = self.from.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{method}: {error}"));
            if told["id"] == self.count {
                assert!(told["error"].is_null(), "{method}: {}", told["error"]);
                return told["result"].clone();
            }
            let event = &told["params"];
            match told["method"].as_str() {
                Some("Runtime.exceptionThrown") => self.wrong.push(event["exceptionDetails"].to_string()),
                Some("Log.entryAdded") if event["entry"]["source"] == "security" => {
                    self.wrong.push(event["entry"].to_string());
                }
                _ => {}
            }
        }
    }

    /// What an expression is in the page.
    fn eval(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let told = self.call("Runtime.evaluate", &params);
        assert!(told["exceptionDetails"].is_null(), "{expression}: {}", told["exceptionDetails"]);
        told["result"]["value"].clone()
    }

    /// Waits until an expression is true in the page.
    fn until(&mut self, expression: &str) {
        let begun = Instant::now();
        while self.eval(expression) != true {
            let page = self.eval("document.body.innerText");
            assert!(begun.elapsed() < PATIENCE, "{expression}: {page}; {:?}", self.wrong);
        }
    }

    fn open(&mut self, url: &str) {
        self.call("Page.navigate", &json!({ "url": url }));
        self.until("document.readyState === 'complete'");
    }

    fn press(&mut self, key: &str) {
        let text = if key == "Enter" { "\r" } else { key };
        let text = if text.len() == 1 { json!(text) } else { Value::Null };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": if key == "Escape" { 27 } else { 0 } });
            if kind == "keyDown" && !text.is_null() {
                event["text"] = text.clone();
            }
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    fn upload(&mut self, files: &[&Path]) {
        let input = self.call("Runtime.evaluate", &json!({ "expression": "document.getElementById('files')" }));
        let params = json!({ "objectId": input["result"]["objectId"], "files": files });
        self.call("DOM.setFileInputFiles", &params);
    }

    /// Answers the question that is open.
    fn answer(&mut self, answer: &str) {
        self.until("document.getElementById('question').open");
        self.eval(&format!("document.getElementById('answer').value = {}", json!(answer)));
        self.eval("document.getElementById('question-yes').click()");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const NAMES: &str =
    "[...document.querySelectorAll('#list tr[data-index] td:first-child')].map((cell) => cell.textContent)";

/// A PNG of one pixel.
const PIXEL: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\x06\0\0\0\x1f\x15\xc4\x89\0\0\0\rIDATx\x9cc\xf8\xff\xff?\0\x05\xfe\x02\xfe\xa75\x81\x84\0\0\0\0IEND\xaeB`\x82";

#[test]
fn files_are_managed_in_a_browser() {
    let world = World::new();
    let Some(mut browser) = Browser::start(world.dir.path()) else { return };
    let server = world.serve(&[]);
    let (token, http) = (world.ok(&["http", "token"]), server.addr("http"));
    let bearer = format!("Bearer {token}");
    let put = |path: &str, body: &[u8]| {
        assert_eq!(ask(http, "PUT", path, &[("Authorization", &bearer)], body).0, 201, "{path}");
    };
    let markup = "%3Cimg%20src=x%20onerror=%22window.pwned=1%22%3E";
    assert_eq!(ask(http, "MKCOL", "/ipfs/dir/", &[("Authorization", &bearer)], b"").0, 201);
    put(&format!("/ipfs/{markup}"), b"text");
    put("/ipfs/dir/%FF%3Cb%3E.txt", b"odd <b>text</b>");
    put("/ipfs/index.html", b"<script>parent.pwned = 1</script>");

    // What is there is shown as text, and an index.html does not stand in its way.
    browser.open(&format!("http://{http}/ipfs/?list"));
    browser.until(&format!("{NAMES}.length === 3"));
    assert_eq!(browser.eval(&format!("{NAMES}[0]")), "dir/");
    assert!(browser.eval(NAMES).to_string().contains("<img src=x onerror="));
    assert!(
        browser.eval("document.querySelector('#list img, #list b') === null && window.pwned === undefined") == true
    );

    // By keys: into the directory, its file as text, and up again.
    browser.press("Enter");
    browser.until(&format!("location.pathname === '/ipfs/dir/' && {NAMES}.length === 1"));
    browser.press("Enter");
    browser.until("document.getElementById('view').open && document.querySelector('#view pre')?.textContent === 'odd <b>text</b>'");
    browser.eval("document.getElementById('view').close()");
    browser.press("Backspace");
    browser.until(&format!("location.pathname === '/ipfs/' && {NAMES}.length === 3"));
    browser.press("/");
    assert_eq!(browser.eval("document.activeElement.id"), "filter");
    browser.eval(
        "{ const f = document.getElementById('filter'); f.value = 'INDEX'; f.dispatchEvent(new Event('input')); }",
    );
    assert_eq!(browser.eval(NAMES), json!(["index.html"]));
    browser.press("Escape");

    // Writing asks for the token, once: a wrong one again.
    let (picture, long) = (world.path("a picture.png"), world.path("long.bin"));
    fs::write(&picture, PIXEL).expect("written");
    let bytes: Vec<u8> = (0..3_000_000u32).map(|index| u8::try_from(index % 251).expect("small")).collect();
    fs::write(&long, &bytes).expect("written");
    browser.upload(&[&picture]);
    browser.until("document.getElementById('login').open");
    for shown in ["wrong", &token] {
        browser.until("document.getElementById('login').open && document.getElementById('token').value === ''");
        browser.eval(&format!("document.getElementById('token').value = {}", json!(shown)));
        browser.eval("document.getElementById('login-yes').click()");
    }
    browser.until(&format!("{NAMES}.includes('a picture.png')"));
    browser.upload(&[&long]);
    browser.until(&format!("{NAMES}.includes('long.bin')"));
    assert!(world.run(&["cat", "/ipfs/long.bin"]).stdout == bytes);
    assert_eq!(browser.eval("document.cookie"), "", "no script reads the cookie");

    // A picture is shown.
    browser.eval("[...document.querySelectorAll('#list a')].find((a) => a.textContent === 'a picture.png').click()");
    browser.until("document.querySelector('#view img')?.naturalWidth === 1");
    browser.eval("document.getElementById('view').close()");

    // Directories are made, what is there renamed, and deleted with a question.
    browser.eval("document.getElementById('new-dir').click()");
    browser.answer("new & <i>");
    browser.until(&format!("{NAMES}.includes('new & <i>/')"));
    browser.eval("state.at = state.rows.findIndex((row) => row.name === 'long.bin'); mark(); document.getElementById('table').focus()");
    browser.press("F2");
    browser.answer("100% é.bin");
    browser.until(&format!("{NAMES}.includes('100% é.bin')"));
    assert!(world.run(&["cat", "/ipfs/100% é.bin"]).stdout == bytes);
    browser.eval("state.at = state.rows.findIndex((row) => row.name.startsWith('<img')); mark(); document.getElementById('table').focus()");
    browser.press("Delete");
    browser.until("document.getElementById('question').open");
    browser.press("Escape");
    browser.until("!document.getElementById('question').open");
    browser.press("Delete");
    browser.answer("");
    browser.until(&format!("!{NAMES}.some((name) => name.startsWith('<img'))"));

    // What was committed comes back from the history.
    put("/ipfs/dir/f", b"one");
    world.ok(&["commit", "/ipfs"]);
    assert_eq!(ask(http, "PUT", "/ipfs/dir/f", &[("Authorization", &bearer)], b"two").0, 204);
    browser.open(&format!("http://{http}/ipfs/dir/?list"));
    browser.until("!document.getElementById('history').hidden");
    browser.eval("document.getElementById('history').click()");
    browser.until(&format!("location.pathname.endsWith('/.history/') && {NAMES}.length > 0"));
    browser.eval("[...document.querySelectorAll('#list tr[data-index] a')].at(-1).click()");
    browser.until(&format!("{NAMES}.includes('f')"));
    browser.eval("document.querySelector('#list button[aria-label=\"Restore f\"]').click()");
    browser.answer("");
    browser.until("document.getElementById('told').textContent === 'Restored f'");
    assert_eq!(world.ok(&["cat", "/ipfs/dir/f"]), "one");

    // Of a long list as much is drawn as is looked at: by keys to its end, by scrolling from there back to its begin.
    let long = world.path("many");
    fs::create_dir(&long).expect("made");
    for index in 0..5000 {
        fs::write(long.join(format!("{index:04}")), format!("{index}")).expect("written");
    }
    world.ok(&["put", "-r", long.to_str().expect("UTF-8"), "/ipfs/many"]);
    let rows = "[...document.querySelectorAll('#list tr[data-index]')]";
    let drawn = format!("{rows}.length <= 1000 && state.rows?.length === 5000");
    browser.open(&format!("http://{http}/ipfs/many/?list"));
    browser.until(&format!("{drawn} && {NAMES}[0] === '0000'"));
    browser.eval("document.getElementById('table').focus()");
    browser.press("End");
    browser.until(&format!("{drawn} && {NAMES}.at(-1) === '4999'"));
    assert_eq!(browser.eval(&format!("{rows}.findIndex((row) => row.ariaSelected === 'true')")), 999);
    while browser.eval(&format!("{NAMES}[0] === '0000'")) == false {
        let first = browser.eval(&format!("{NAMES}[0]"));
        browser.eval("scrollTo(0, 0)");
        browser.until(&format!("{drawn} && {NAMES}[0] < {first}"));
    }
    browser.press("ArrowUp");
    browser.until(&format!(
        "{drawn} && {NAMES}.includes('4998') && document.querySelector('[aria-selected=true] a').textContent === '4998'"
    ));

    // Nothing is wider than a phone.
    let phone = json!({ "width": 360, "height": 640, "deviceScaleFactor": 2, "mobile": true });
    browser.call("Emulation.setDeviceMetricsOverride", &phone);
    for page in ["/ipfs/?list", "/ipfs/dir/?list", "/?list", "/.muxfs/status"] {
        browser.open(&format!("http://{http}{page}"));
        browser.until("document.querySelectorAll('tbody tr').length > 0");
        assert!(browser.eval("document.documentElement.scrollWidth <= 360") == true, "{page}");
    }
    // The status page draws what it was told twice.
    browser.until("document.querySelectorAll('#mounts tr').length === 3 && document.querySelectorAll('polyline[points]').length > 2");
    assert_eq!(browser.wrong, Vec::<String>::new());
    drop(browser);
    assert_eq!(server.terminate(), Some(0));
}
