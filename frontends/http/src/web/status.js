// The status page: asks every two seconds, and draws what grew between two answers.
"use strict";

const EVERY_MS = 2000;
const POINT_COUNT = 150;
const $ = (id) => document.getElementById(id);
const plots = new Map();
let before = null;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function size(bytes) {
  if (bytes < 1024) return `${Math.round(bytes)} B`;
  const units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let [value, unit] = [bytes / 1024, 0];
  while (value >= 1024 && unit + 1 < units.length) [value, unit] = [value / 1024, unit + 1];
  return `${value.toFixed(1)} ${units[unit]}`;
}

function drawn(name, isBytes) {
  if (!plots.has(name)) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", `0 0 ${POINT_COUNT - 1} 100`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    svg.append(line);
    const caption = make("figcaption");
    $("plots").append(make("figure", {}, caption, svg));
    plots.set(name, { svg, line, caption, isBytes, values: [] });
  }
  return plots.get(name);
}

function plot(name, value, isBytes) {
  const { svg, line, caption, values } = drawn(name, isBytes);
  values.push(value);
  if (values.length > POINT_COUNT) values.shift();
  const top = Math.max(...values);
  const at = (one, index) => `${POINT_COUNT - values.length + index},${98 - 96 * one / Math.max(top, 1)}`;
  line.setAttribute("points", values.map(at).join(" "));
  const told = (one) => isBytes ? `${size(one)}/s` : `${one.toFixed(1)}/s`;
  caption.textContent = `${name}: ${told(value)}, at most ${told(top)}`;
  svg.setAttribute("aria-label", caption.textContent);
}

function mount(one) {
  const space = make("td");
  if (one.bytes_total) {
    const used = one.bytes_total - one.bytes_free;
    const meter = make("meter", { min: 0, max: one.bytes_total, high: one.bytes_total * 0.9, value: used });
    meter.setAttribute("aria-label", `Used of /${one.prefix}`);
    space.append(meter, make("div", { textContent: `${size(one.bytes_free)} of ${size(one.bytes_total)} free` }));
  }
  const commit = make("td");
  if (one.commit) {
    commit.append(make("a", { href: `/${one.prefix}/${one.commit.root}/`, textContent: one.commit.root, className: "cid" }),
      make("div", { textContent: `${new Date(one.commit.time * 1000).toLocaleString()} ${one.commit.note}` }));
    if (one.uncommitted) commit.append(make("div", { textContent: `${size(one.uncommitted)} not committed yet` }));
  }
  const health = make("td", { textContent: one.error ?? "it answers", className: one.error ? "wrong" : "" });
  return make("tr", {}, make("td", {}, make("a", { href: `/${one.prefix}/?list`, textContent: `/${one.prefix}` })), space, commit, health);
}

const LENGTHS = /(^|_)(bytes|free|len)$/;

function plain(key, value) {
  if (value === null || value === false) return "";
  if (value === true) return "yes";
  if (typeof value !== "number") return String(value);
  if (LENGTHS.test(key)) return size(value);
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}

/** Things of one kind, as a table. */
function table(things) {
  const keys = [...new Set(things.flatMap((one) => Object.keys(one)))];
  // What nothing has anything to say of is left out.
  const told = keys.filter((key) => things.some((one) => plain(key, one[key] ?? null) !== ""));
  const head = told.map((key) => make("th", { scope: "col", textContent: key.replaceAll("_", " ") }));
  const line = (one) => make("tr", {}, ...told.map((key) => make("td", {}, described(one[key] ?? null, key))));
  return make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...things.map(line)));
}

/** What a store says of itself, whatever it is: names and values, and tables of things that are alike. */
function described(value, key = "") {
  if (value === null || typeof value !== "object") return document.createTextNode(plain(key, value));
  if (Array.isArray(value) && value.length > 0 && value.every((one) => one !== null && typeof one === "object")) return table(value);
  if (Array.isArray(value)) return document.createTextNode(value.map((one) => plain(key, one)).join(", "));
  const has = ([name, one]) => (one !== null && typeof one === "object") || plain(name, one) !== "";
  const line = ([name, one]) => make("li", {}, make("b", { textContent: `${name.replaceAll("_", " ")}: ` }), described(one, name));
  return make("ul", {}, ...Object.entries(value).filter(has).map(line));
}

async function look() {
  try {
    const response = await fetch("/.muxfs/status.json", { headers: { "X-Requested-With": "XMLHttpRequest" } });
    if (!response.ok) throw new Error((await response.text()).split("\n")[0]);
    const now = await response.json();
    $("mounts").replaceChildren(...now.mounts.map(mount));
    $("stores").replaceChildren(...Object.entries(now.stores ?? {}).flatMap(([name, value]) =>
      [make("h2", { textContent: name }), described(value)]));
    if (before) {
      const seconds = Math.max(now.time - before.time, 0.1);
      const bytesFirst = ([, a], [, b]) => Number(b.bytes) - Number(a.bytes);
      for (const [name, { value, bytes }] of Object.entries(now.counters).sort(bytesFirst)) {
        const grown = Math.max(value - (before.counters[name]?.value ?? value), 0);
        // What never moved since the page was opened is not worth a plot, but for what goes through.
        if (bytes || grown > 0 || plots.has(name)) plot(name, grown / seconds, bytes);
      }
    }
    before = now;
    $("told").textContent = `As of ${new Date(now.time * 1000).toLocaleTimeString()}`;
    $("told").className = "";
  } catch (error) {
    $("told").textContent = `The server does not answer: ${error.message}`;
    $("told").className = "wrong";
  }
  setTimeout(look, EVERY_MS);
}

look();
