// The file manager: lists a directory, shows what is in it, and changes it over WebDAV.
//
// All that is shown goes in as text, never as markup. An entry is known by its address (`href`), which is exact; its name
// is for people, and may have lost what is no UTF-8.
"use strict";

const $ = (id) => document.getElementById(id);
const SHOWN_LEN = 64 * 1024;
const UPLOADS_AT_ONCE = 3;
/** So many rows are drawn at a time: a directory may have a hundred thousand. */
const DRAWN_COUNT = 1000;
const PICTURES = /\.(avif|bmp|gif|ico|jpe?g|png|svg|webp)$/i;
const SOUNDS = /\.(flac|m4a|mp3|oga|ogg|opus|wav)$/i;
const FILMS = /\.(m4v|mov|mp4|ogv|webm)$/i;
// Sent with everything, so that a browser leaves asking for the token to this page.
const OURS = { "X-Requested-With": "XMLHttpRequest" };

const state = { path: "/", entries: [], at: -1, sort: "name", down: false, generation: 0 };

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function button(label, title, action) {
  const made = make("button", { type: "button", textContent: label, title });
  made.setAttribute("aria-label", title);
  made.addEventListener("click", (event) => {
    event.stopPropagation();
    action();
  });
  return made;
}

function say(text, isWrong = false) {
  const told = $("told");
  told.textContent = text;
  told.className = isWrong ? "wrong" : "";
}

function size(bytes) {
  if (bytes === null || bytes === undefined) return "";
  if (bytes < 1024) return `${bytes} B`;
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let [value, unit] = [bytes / 1024, 0];
  while (value >= 1024 && unit + 1 < units.length) [value, unit] = [value / 1024, unit + 1];
  return `${value.toFixed(1)} ${units[unit]}`;
}

function time(seconds) {
  return seconds === null || seconds === undefined ? "" : new Date(seconds * 1000).toLocaleString();
}

// ---- asking the server

async function why(response) {
  const text = await response.text().catch(() => "");
  return text.split("\n").slice(0, 2).join(" ").trim() || `${response.status} ${response.statusText}`;
}

/** Asks; where the token is needed, asks for that first. */
async function ask(method, address, headers = {}, body = undefined) {
  for (;;) {
    const response = await fetch(address, { method, headers: { ...OURS, ...headers }, body, credentials: "same-origin" });
    if (response.status !== 401 || !(await logIn())) return response;
  }
}

async function change(method, address, headers = {}) {
  const response = await ask(method, address, headers);
  if (!response.ok || response.status === 207) throw new Error(await why(response));
  return response;
}

let loggingIn = null;

/** Asks for the token until it is right, and says whether it is; once for all who wait for it. */
function logIn() {
  loggingIn ??= logInNow().finally(() => { loggingIn = null; });
  return loggingIn;
}

async function logInNow() {
  const form = $("login");
  $("token").value = "";
  form.returnValue = "";
  form.showModal();
  $("token").focus();
  await new Promise((done) => form.addEventListener("close", done, { once: true }));
  if (form.returnValue !== "yes") return false;
  const body = new URLSearchParams({ user: $("user").value, token: $("token").value });
  const response = await fetch("/.muxfs/login", { method: "POST", headers: OURS, body, credentials: "same-origin" });
  if (response.ok) return true;
  say("That is neither the token, which `muxfs http token` prints, nor a user and their password.", true);
  return logInNow();
}

// ---- the list

function parent(path) {
  return path === "/" ? null : path.replace(/[^/]+\/$/, "");
}

async function load(path, push = false) {
  const generation = ++state.generation;
  const entries = [];
  let from = "";
  do {
    const response = await ask("GET", path + (from && `?from=${from}`), { Accept: "application/json" });
    if (generation !== state.generation) return;
    if (!response.ok) {
      say(await why(response), true);
      return;
    }
    const page = await response.json();
    entries.push(...page.entries);
    from = page.next;
    Object.assign(state, { cid: page.cid, writable: page.writable, history: page.history, pins: page.pins });
    say(from ? `${entries.length} names …` : "");
  } while (from);
  Object.assign(state, { path, entries, at: entries.length ? 0 : -1 });
  if (push) history.pushState(null, "", `${path}?list`);
  $("filter").value = "";
  show();
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function crumbs() {
  const parts = state.path.split("/").filter(Boolean);
  const line = [link("/", "/")];
  let path = "/";
  for (const part of parts) {
    path += `${part}/`;
    line.push(" ", link(path, decoded(part)), " /");
  }
  $("crumbs").replaceChildren(...line);
  document.title = `/${parts.map(decoded).join("/")} – MuxFS`;
}

function link(path, text) {
  const made = make("a", { href: `${path}?list`, textContent: text });
  made.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    load(path, true);
  });
  return made;
}

function shown() {
  const wanted = $("filter").value.toLowerCase();
  const key = { name: (e) => e.name, size: (e) => e.size ?? -1, mtime: (e) => e.mtime ?? 0 }[state.sort];
  const order = (a, b) => (a.kind === "dir") !== (b.kind === "dir") ? (a.kind === "dir" ? -1 : 1)
    : key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0;
  const found = state.entries.filter((entry) => entry.name.toLowerCase().includes(wanted)).sort(order);
  return state.down ? found.reverse() : found;
}

function show() {
  crumbs();
  const inMount = state.path !== "/";
  const past = state.path.includes("/.history/");
  for (const id of ["new-dir", "upload"]) $(id).hidden = !inMount || past || !state.writable;
  $("history").hidden = !state.history || past;
  $("pins").hidden = !state.pins;
  $("whole").hidden = !inMount;
  state.rows = shown();
  if (state.at >= state.rows.length) state.at = state.rows.length - 1;
  draw(state.at - DRAWN_COUNT / 2);
  $("nothing").hidden = state.rows.length > 0;
  for (const head of document.querySelectorAll("th[data-sort]")) {
    head.setAttribute("aria-sort", head.dataset.sort !== state.sort ? "none" : state.down ? "descending" : "ascending");
  }
  mark();
}

/** Draws a part of the rows, from that one on at the earliest, and how many there are before and after it. */
function draw(from) {
  state.from = Math.max(0, Math.min(from, state.rows.length - DRAWN_COUNT));
  state.end = Math.min(state.from + DRAWN_COUNT, state.rows.length);
  const lines = state.rows.slice(state.from, state.end).map((entry, index) => row(entry, state.from + index));
  const above = parent(state.path);
  if (state.from > 0) lines.unshift(rest(`↑ ${state.from} before`, state.from - DRAWN_COUNT / 2, state.from));
  else if (above !== null) lines.unshift(make("tr", {}, make("td", { colSpan: 4 }, link(above, ".."))));
  const left = state.rows.length - state.end;
  if (left > 0) lines.push(rest(`↓ ${left} more`, state.from + DRAWN_COUNT / 2, state.end - 1));
  $("list").replaceChildren(...lines);
}

function line(index) {
  return $("list").querySelector(`tr[data-index="${index}"]`);
}

/** A row that leads to those that are not drawn: where it comes into view, or by its button. The row `kept` stays in its place. */
function rest(text, from, kept) {
  const lead = button(text, text, () => {
    const top = line(kept).getBoundingClientRect().top;
    draw(from);
    scrollBy(0, line(kept).getBoundingClientRect().top - top);
  });
  inView.observe(lead);
  return make("tr", {}, make("td", { colSpan: 4 }, lead));
}

const inView = new IntersectionObserver((seen) => {
  for (const { isIntersecting, target } of seen) if (isIntersecting && target.isConnected) target.click();
});

function address(entry) {
  return state.path + entry.href + (entry.kind === "dir" ? "/" : "");
}

function row(entry, index) {
  const past = state.path.includes("/.history/");
  const name = entry.kind === "dir" ? link(address(entry), entry.name) : make("a", { href: address(entry), textContent: entry.name });
  if (entry.kind === "file") {
    name.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      open(entry);
    });
  }
  const tools = make("div", { className: "row-tools" });
  if (entry.cid) tools.append(button("CID", `Copy the CID of ${entry.name}`, () => copyCid(entry.cid)));
  if (entry.kind === "file") tools.append(button("↓", `Save ${entry.name}`, () => save(`${address(entry)}?download=true`)));
  if (entry.kind === "dir" && state.path !== "/") {
    tools.append(button("TAR", `Save ${entry.name} as a TAR`, () => save(`${address(entry)}?format=tar`)));
    // Content that has a CID is had by it, each block to be verified by whoever reads the CAR.
    const car = `/${state.path.split("/")[1]}/${entry.cid}?format=car&filename=${encodeURIComponent(entry.name)}.car`;
    if (entry.cid) tools.append(button("CAR", `Save ${entry.name} as a CAR`, () => save(car)));
  }
  if (past && state.writable && restored(entry)) tools.append(button("Restore", `Restore ${entry.name}`, () => restore(entry)));
  if (!past && state.writable) {
    tools.append(button("✎", `Rename ${entry.name}`, () => rename(entry)));
    tools.append(button("✕", `Delete ${entry.name}`, () => remove(entry)));
  }
  const first = make("td", {}, name, { file: "", dir: "/", symlink: " (link)" }[entry.kind] ?? ` (${entry.kind})`);
  const made = make("tr", {}, first, make("td", { className: "number", textContent: size(entry.size) }),
    make("td", { className: "number", textContent: time(entry.mtime) }), make("td", {}, tools));
  made.dataset.index = index;
  made.setAttribute("aria-selected", String(index === state.at));
  made.addEventListener("click", () => {
    state.at = index;
    mark();
  });
  return made;
}

function mark() {
  $("list").querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
  if (state.at >= 0) {
    // Far away, as by the key End.
    if (!line(state.at)) draw(state.at - DRAWN_COUNT / 2);
    line(state.at).setAttribute("aria-selected", "true");
    if (document.activeElement === $("table")) line(state.at).scrollIntoView({ block: "nearest" });
  }
  const entry = state.rows?.[state.at];
  $("table").setAttribute("aria-label", entry ? `Entries; at ${entry.name}` : "Entries");
}

// ---- what is done with an entry

function save(path) {
  const made = make("a", { href: path, download: "" });
  document.body.append(made);
  made.click();
  made.remove();
}

async function copyCid(cid) {
  try {
    await navigator.clipboard.writeText(cid);
    say(`Copied ${cid}`);
  } catch {
    // Not to be had without HTTPS but on loopback: shown, to be copied by hand.
    prompt("The CID:", cid);
  }
}

async function open(entry) {
  if (entry.kind === "dir") {
    load(address(entry), true);
    return;
  }
  if (entry.kind !== "file") return;
  const path = address(entry);
  const view = $("view-body");
  $("view-name").textContent = entry.name;
  $("view-open").href = path;
  if (PICTURES.test(entry.name)) view.replaceChildren(make("img", { src: path, alt: entry.name }));
  else if (SOUNDS.test(entry.name)) view.replaceChildren(make("audio", { src: path, controls: true }));
  else if (FILMS.test(entry.name)) view.replaceChildren(make("video", { src: path, controls: true }));
  else {
    const response = await ask("GET", path, entry.size > 0 ? { Range: `bytes=0-${SHOWN_LEN - 1}` } : {});
    if (!response.ok) {
      say(await why(response), true);
      return;
    }
    const bytes = new Uint8Array(await response.arrayBuffer());
    let text;
    try {
      // The last character may be cut where the part ends.
      text = bytes.includes(0) ? null : new TextDecoder("utf-8", { fatal: true }).decode(bytes, { stream: entry.size > bytes.length });
    } catch {
      text = null;
    }
    const rest = entry.size > bytes.length ? `\n… ${size(entry.size - bytes.length)} more` : "";
    view.replaceChildren(make("pre", { textContent: text === null ? `${size(entry.size)} that are no text.` : text + rest }));
  }
  $("view").showModal();
}

let asked = Promise.resolve();

/** Asks a question, after the one before; the text that was typed, or `null`. */
function question(text, value, label) {
  asked = asked.then(() => questionNow(text, value, label));
  return asked;
}

async function questionNow(text, value, label) {
  $("question-text").textContent = text;
  $("answer").hidden = value === null;
  $("answer").value = value ?? "";
  $("question-yes").textContent = label;
  $("question").returnValue = "";
  $("question").showModal();
  (value === null ? $("question-yes") : $("answer")).focus();
  if (value !== null) $("answer").select();
  await new Promise((done) => $("question").addEventListener("close", done, { once: true }));
  $("table").focus();
  return $("question").returnValue === "yes" ? $("answer").value : null;
}

async function attempt(done, action) {
  try {
    await action();
    await load(state.path);
    if (done) say(done);
  } catch (error) {
    say(error.message, true);
  }
}

async function rename(entry) {
  const name = await question(`A new name for ${entry.name}:`, entry.name, "Rename");
  if (name === null || name === "" || name === entry.name) return;
  const to = new URL(state.path + encodeURIComponent(name), location.href).href;
  await attempt(`Renamed to ${name}`, () => change("MOVE", address(entry), { Destination: to, Overwrite: "F" }));
}

async function remove(entry) {
  const what = entry.kind === "dir" ? `the directory ${entry.name} and all that is in it` : entry.name;
  if ((await question(`Delete ${what}?`, null, "Delete")) === null) return;
  await attempt(`Deleted ${entry.name}`, () => change("DELETE", address(entry)));
}

async function makeDir() {
  const name = await question("The name of the new directory:", "", "Make");
  if (!name) return;
  await attempt(`Made ${name}`, () => change("MKCOL", `${state.path + encodeURIComponent(name)}/`));
}

/** Where an entry of the history belongs; `null` for a moment of it. */
function restored(entry) {
  const [dir, past] = state.path.split("/.history/");
  const below = past?.split("/").slice(1).join("/");
  return past ? `${dir}/${below}${entry.href}` : null;
}

async function restore(entry) {
  const to = restored(entry);
  if ((await question(`Put ${entry.name} back to ${decoded(to)}, in the place of what is there?`, null, "Restore")) === null) return;
  const Destination = new URL(to, location.href).href;
  await attempt(`Restored ${entry.name}`, () => change("COPY", address(entry), { Destination }));
}

async function showPins() {
  const response = await ask("GET", `/.muxfs/pins${state.path}`, { Accept: "application/json" });
  if (!response.ok) return say(await why(response), true);
  const { pins, more } = await response.json();
  const prefix = state.path.split("/")[1];
  const lines = pins.map((cid) => make("li", {}, make("a", { href: `/${prefix}/${cid}`, textContent: cid, className: "cid" })));
  if (more) lines.push(make("li", { textContent: "… and more: `muxfs pin ls` lists all." }));
  $("view-name").textContent = `Pins of /${prefix}`;
  $("view-open").href = `/${prefix}/`;
  $("view-body").replaceChildren(pins.length ? make("ul", {}, ...lines) : make("p", { textContent: "Nothing is pinned." }));
  return $("view").showModal();
}

// ---- uploads

const queue = [];
let running = 0;

async function upload(files) {
  const known = new Set(state.entries.map((entry) => entry.href));
  for (const file of files) {
    const href = encodeURIComponent(file.name);
    let replace = false;
    if (state.entries.some((entry) => entry.name === file.name) || known.has(href)) {
      replace = (await question(`${file.name} is there already. Replace it?`, null, "Replace")) !== null;
      if (!replace) continue;
    }
    queue.push({ file, path: state.path, address: state.path + href, replace });
  }
  while (running < UPLOADS_AT_ONCE && queue.length) send(queue.shift());
}

function send(job) {
  running += 1;
  const bar = make("progress", { max: 1, value: 0 });
  bar.setAttribute("aria-label", `Upload of ${job.file.name}`);
  const note = make("span");
  const request = new XMLHttpRequest();
  const line = make("li", {}, make("span", { textContent: job.file.name }), bar, note, button("✕", `Stop ${job.file.name}`, () => request.abort()));
  $("uploads").append(line);
  const end = (text, isWrong) => {
    running -= 1;
    if (isWrong) {
      note.textContent = text;
      note.className = "wrong";
      line.lastChild.replaceWith(button("✕", "Forget this", () => line.remove()));
    } else {
      line.remove();
    }
    if (queue.length) send(queue.shift());
    else if (running === 0 && job.path === state.path) load(state.path).then(() => say(text, isWrong));
  };
  request.open("PUT", job.address);
  for (const [name, value] of Object.entries(OURS)) request.setRequestHeader(name, value);
  if (!job.replace) request.setRequestHeader("If-None-Match", "*");
  if (job.file.lastModified) request.setRequestHeader("X-OC-Mtime", String(Math.floor(job.file.lastModified / 1000)));
  const begun = Date.now();
  request.upload.addEventListener("progress", (event) => {
    if (!event.lengthComputable) return;
    bar.value = event.total ? event.loaded / event.total : 1;
    const rate = event.loaded / Math.max((Date.now() - begun) / 1000, 0.1);
    note.textContent = event.loaded < event.total ? `${size(event.loaded)} of ${size(event.total)}, ${size(Math.round(rate))}/s` : "making it durable …";
  });
  request.addEventListener("load", async () => {
    if (request.status === 401) {
      line.remove();
      running -= 1;
      if (await logIn()) send(job);
      else {
        queue.length = 0;
        say("Nothing more was uploaded: writing needs the token.", true);
      }
      return;
    }
    const isWrong = request.status >= 300;
    end(isWrong ? request.responseText.split("\n")[0] || `status ${request.status}` : `${job.file.name} is there`, isWrong);
  });
  request.addEventListener("error", () => end("The connection broke off; nothing was kept.", true));
  request.addEventListener("abort", () => end("Stopped; nothing was kept.", true));
  request.send(job.file);
}

// ---- keys and the rest

function keys(event) {
  const typing = event.target instanceof HTMLInputElement;
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  if (typing && event.key !== "Escape" && !(event.target === $("filter") && ["ArrowDown", "Enter"].includes(event.key))) return;
  const entry = state.rows?.[state.at];
  const step = (by) => {
    state.at = Math.max(0, Math.min(state.rows.length - 1, state.at + by));
    $("table").focus();
    mark();
  };
  const actions = {
    ArrowDown: () => step(typing ? 0 : 1),
    ArrowUp: () => step(-1),
    Home: () => step(-Infinity),
    End: () => step(Infinity),
    PageDown: () => step(15),
    PageUp: () => step(-15),
    Backspace: () => parent(state.path) !== null && load(parent(state.path), true),
    "/": () => $("filter").focus(),
    Escape: () => {
      $("filter").value = "";
      show();
      $("table").focus();
    },
  };
  if (entry) {
    actions.Enter = () => open(entry);
    if (state.writable && !state.path.includes("/.history/")) {
      actions.Delete = () => remove(entry);
      actions.F2 = () => rename(entry);
    }
  }
  // A link or a button that has the focus does what it does.
  if (event.key === "Enter" && event.target.closest("a, button")) return;
  const action = actions[event.key];
  if (!action) return;
  event.preventDefault();
  action();
}

function begin() {
  document.body.classList.add("scripted");
  document.addEventListener("keydown", keys);
  $("filter").addEventListener("input", show);
  $("new-dir").addEventListener("click", makeDir);
  $("upload").addEventListener("click", () => $("files").click());
  $("files").addEventListener("change", () => {
    upload([...$("files").files]).then(() => { $("files").value = ""; });
  });
  $("history").addEventListener("click", () => load(`${state.path}.history/`, true));
  $("pins").addEventListener("click", showPins);
  $("whole").addEventListener("click", () => save(`${state.path}?format=tar`));
  for (const head of document.querySelectorAll("th[data-sort] button")) {
    head.addEventListener("click", () => {
      const sort = head.parentElement.dataset.sort;
      [state.sort, state.down] = [sort, state.sort === sort && !state.down];
      show();
    });
  }
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("cancel", () => { dialog.returnValue = ""; });
  }
  $("view").addEventListener("close", () => $("view-body").replaceChildren());
  addEventListener("popstate", () => load(location.pathname));
  addEventListener("dragover", (event) => {
    if (!state.writable) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  addEventListener("dragleave", () => document.body.classList.remove("dropping"));
  addEventListener("drop", (event) => {
    document.body.classList.remove("dropping");
    if (!state.writable) return;
    event.preventDefault();
    upload([...event.dataTransfer.files]);
  });
  load(location.pathname).then(() => $("table").focus());
}

begin();
