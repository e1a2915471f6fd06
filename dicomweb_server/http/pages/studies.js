// The studies of the archive: a list with search, the series of a study, and a place to drop files.
"use strict";

const { base, viewer, root, login } = document.body.dataset; // paths, and whether people log in here
const PAGE = 25;
const BATCH_FILES = 50;
const BATCH_BYTES = 64 * 1024 * 1024;
const MOST_TOLD = 100;

const $ = (id) => document.getElementById(id);
const value = (item, tag) => item[tag]?.Value?.[0];
const name = (item, tag) => ["Alphabetic", "Ideographic"].map((group) => value(item, tag)?.[group])
  .filter(Boolean).map((text) => text.replaceAll("^", " ").trim()).join(" ");
const day = (text) => (text ?? "").replace(/^(\d{4})(\d\d)(\d\d)$/, "$1-$2-$3");
const address = (...parts) => [base, ...parts.map(encodeURIComponent)].join("/");

let offset = 0;
let permissions = [];

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function ask(url) {
  const answer = await fetch(url, { headers: { Accept: "application/dicom+json, application/json" } });
  // Nobody is sent to log in unasked: who has just logged out could be logged in again by an issuer who knows them.
  if (answer.status === 401) throw new Error("Log in to see the studies.");
  if (!answer.ok) {
    throw new Error((await answer.json().catch(() => ({}))).reason ?? `the server answered ${answer.status}`);
  }
  return answer.status === 204 ? [] : answer.json();
}

// Who is logged in, and the place to drop files only for who may store.
async function greet() {
  const answer = await fetch(`${root}/api/profile`);
  const who = answer.ok ? await answer.json() : { kind: "anonymous", permissions: [] };
  permissions = who.permissions;
  $("drop").hidden = !permissions.includes("store");
  if (!login) return;
  const known = who.kind !== "anonymous";
  $("who").append(known ? `${who.username} ` : "", element("a", known
    ? { href: `${root}/logout`, textContent: "Log out" }
    : { href: `${root}/login?next=${encodeURIComponent(location.pathname)}`, textContent: "Log in" }));
}

function search() {
  const query = new URLSearchParams({ limit: PAGE + 1, offset, orderby: "-StudyDate,-StudyTime" });
  query.set("includefield", "StudyDescription");
  for (const [key, text] of new FormData($("search"))) {
    const wanted = text.trim();
    if (!wanted) continue;
    if (key === "StudyDate") query.set(key, wanted.replaceAll(/(\d{4})-(\d\d)-(\d\d)/g, "$1$2$3"));
    else if (key === "ModalitiesInStudy") query.set(key, wanted.toUpperCase());
    else query.set(key, /[*?]/.test(wanted) ? wanted : `*${wanted}*`);
  }
  return query;
}

async function list() {
  const body = $("list").tBodies[0];
  try {
    const found = await ask(`${address("studies")}?${search()}`);
    body.replaceChildren(...found.slice(0, PAGE).map(row));
    $("back").disabled = offset === 0;
    $("on").disabled = found.length <= PAGE;
    const shown = Math.min(found.length, PAGE);
    const searched = [...new FormData($("search")).values()].some((text) => text.trim());
    $("where").textContent = shown
      ? `${offset + 1} to ${offset + shown}`
      : searched ? "No study is like that." : "The archive is empty. Drop files above.";
    $("where").classList.remove("bad");
  } catch (error) {
    body.replaceChildren();
    $("back").disabled = $("on").disabled = true;
    $("where").textContent = error.message;
    $("where").classList.add("bad");
  }
}

function row(study) {
  const uid = value(study, "0020000D");
  const cell = (label, ...what) => {
    const made = element("td", {}, ...what);
    made.dataset.name = label;
    return made;
  };
  const open = element("button", { className: "open", type: "button" }, name(study, "00100010") || "(no name)");
  open.setAttribute("aria-expanded", "false");
  const links = [];
  if (viewer) {
    const url = `${viewer}/viewer?StudyInstanceUIDs=${encodeURIComponent(uid)}`;
    links.push(element("a", { href: url }, "View"), " · ");
  }
  links.push(element("a", { href: `${address("studies", uid)}?accept=application/zip` }, "Zip"));
  if (permissions.includes("delete")) {
    const remove = element("button", { className: "remove", type: "button" }, "Delete");
    remove.addEventListener("click", () => removed(study, uid));
    links.push(" · ", remove);
  }
  const made = element(
    "tr", {}, element("td", {}, open), cell("ID", value(study, "00100020") ?? ""),
    cell("Date", day(value(study, "00080020"))), cell("Modality", (study["00080061"]?.Value ?? []).join(" ")),
    cell("Description", value(study, "00081030") ?? ""),
    cell("Images", String(value(study, "00201208") ?? "")), element("td", { className: "links" }, ...links),
  );
  open.addEventListener("click", () => toggle(made, open, uid));
  return made;
}

// A study is removed after a question; what the recycle bin keeps can be brought back at once.
async function removed(study, uid) {
  const who = name(study, "00100010") || "no name";
  const number = value(study, "00201208");
  if (!confirm(`Delete the study of ${who} with ${number === 1 ? "1 image" : `${number} images`}?`)) return;
  const answer = await fetch(address("studies", uid), { method: "DELETE" });
  const told = element("span", { className: answer.ok ? "" : "bad" }, answer.ok
    ? `The study of ${who} is deleted. `
    : (await answer.json().catch(() => ({}))).reason ?? `the server answered ${answer.status}`);
  $("removed").replaceChildren(told);
  if (answer.ok && permissions.includes("restore")) {
    const undo = element("button", { type: "button" }, "Undo");
    undo.addEventListener("click", async () => {
      const body = JSON.stringify({ study_uid: uid });
      const back = await fetch(`${base}/bin/restore`, { method: "POST", body, headers: { "Content-Type": "application/json" } });
      const restored = back.ok && (await back.json()).restored;
      $("removed").replaceChildren(restored ? "" : `The study of ${who} could not be brought back: it is not in the recycle bin.`);
      await list();
    });
    $("removed").append(undo);
  }
  await list();
}

async function toggle(line, open, uid) {
  const shown = open.getAttribute("aria-expanded") === "true";
  open.setAttribute("aria-expanded", String(!shown));
  if (shown) {
    line.nextElementSibling.remove();
    return;
  }
  const place = element("div", { className: "series" }, "…");
  line.after(element("tr", {}, element("td", { colSpan: 7 }, place)));
  try {
    const found = await ask(`${address("studies", uid, "series")}?includefield=SeriesDescription`);
    place.replaceChildren(...found.map((series) => card(uid, series)));
  } catch (error) {
    place.replaceChildren(element("span", { className: "bad" }, error.message));
  }
}

function card(uid, series) {
  const url = address("studies", uid, "series", value(series, "0020000E"));
  const image = element("img", { loading: "lazy", alt: "", src: `${url}/thumbnail?viewport=288,288` });
  image.addEventListener("error", () => image.remove());
  const number = value(series, "00201209") ?? 0;
  const text = [value(series, "00080060"), value(series, "0008103E"), number === 1 ? "1 image" : `${number} images`];
  return element("figure", {}, image, element("figcaption", {}, text.filter(Boolean).join(" · ")));
}

async function* filesOf(entry) {
  if (entry.isFile) {
    yield await new Promise((done, failed) => entry.file(done, failed));
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return;
    for (const one of some) yield* filesOf(one);
  }
}

async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  const files = [];
  for (const entry of entries) for await (const file of filesOf(entry)) files.push(file);
  return files;
}

// A file to send: its name, its size, and a way to its bytes. Zips are taken apart here, also those in zips.
async function opened(files) {
  const found = [];
  for (const file of files) {
    if (/(^|\/)(__MACOSX|\.[^/]*)(\/|$)/.test(file.webkitRelativePath || file.name)) continue;
    if (!/\.zip$/i.test(file.name)) {
      found.push({ name: file.name, size: file.size, blob: async () => file });
      continue;
    }
    try {
      const members = await unzipped(file);
      const inner = members.filter((one) => /\.zip$/i.test(one.name));
      found.push(...members.filter((one) => !inner.includes(one)));
      found.push(...await opened(await Promise.all(inner.map(async (one) => new File([await one.blob()], one.name)))));
    } catch (error) {
      tell(`${file.name}: ${error.message}`);
    }
  }
  return found;
}

async function unzipped(file) {
  const view = async (start, end) => new DataView(await file.slice(start, end).arrayBuffer());
  const before = Math.max(0, file.size - 65557);
  const tail = await view(before, file.size);
  let at = tail.byteLength - 22;
  while (at >= 0 && tail.getUint32(at, true) !== 0x06054b50) at -= 1;
  if (at < 0) throw new Error("this is no zip");
  const [size, start] = [tail.getUint32(at + 12, true), tail.getUint32(at + 16, true)];
  if (start === 0xffffffff || tail.getUint16(at + 10, true) === 0xffff) {
    throw new Error("this zip is too large for a browser; dicomweb-server import takes it");
  }
  const directory = await view(start, start + size);
  const found = [];
  for (let place = 0; place + 46 <= directory.byteLength && directory.getUint32(place, true) === 0x02014b50;) {
    const short = (offset) => directory.getUint16(place + offset, true);
    const long = (offset) => directory.getUint32(place + offset, true);
    const name = new TextDecoder().decode(new Uint8Array(directory.buffer, place + 46, short(28)));
    if (short(8) & 1) throw new Error("this zip is encrypted");
    const [method, packed, header] = [short(10), long(20), long(42)];
    if (!name.endsWith("/") && !/(^|\/)(__MACOSX\/|\.)/.test(name)) {
      const blob = async () => {
        const local = await view(header, header + 30);
        const begin = header + 30 + local.getUint16(26, true) + local.getUint16(28, true);
        const raw = file.slice(begin, begin + packed);
        if (method === 0) return raw;
        if (method !== 8) throw new Error("this zip is packed in a way that browsers do not know");
        return new Response(raw.stream().pipeThrough(new DecompressionStream("deflate-raw"))).blob();
      };
      found.push({ name, size: long(24), blob });
    }
    place += 46 + short(28) + short(30) + short(32);
  }
  return found;
}

function batches(files) {
  const made = [];
  let bytes = 0;
  for (const file of files) {
    if (!made.length || made.at(-1).length >= BATCH_FILES || bytes + file.size > BATCH_BYTES) {
      made.push([]);
      bytes = 0;
    }
    made.at(-1).push(file);
    bytes += file.size;
  }
  return made;
}

async function send(files, progress) {
  const form = new FormData();
  for (const file of files) form.append("file", await file.blob(), file.name);
  return new Promise((done, failed) => {
    const request = new XMLHttpRequest();
    request.open("POST", address("studies"));
    request.responseType = "json";
    request.setRequestHeader("Accept", "application/dicom+json, application/json");
    request.upload.addEventListener("progress", (event) => progress(event.loaded));
    request.addEventListener("load", () => {
      const answer = request.response;
      if (["00081198", "00081199", "0008119A"].some((tag) => answer?.[tag])) done(answer);
      else failed(new Error(answer?.reason ?? `the server answered ${request.status}`));
    });
    request.addEventListener("error", () => failed(new Error("the server cannot be reached")));
    request.send(form);
  });
}

function tell(text) {
  if ($("told").childElementCount < MOST_TOLD) $("told").append(element("li", { className: "bad" }, text));
}

async function store(chosen) {
  const bar = $("progress");
  if (!chosen.length || !bar.hidden || $("drop").hidden) return;
  let sent = 0, kept = 0, refused = 0;
  $("told").replaceChildren();
  bar.hidden = false;
  const files = await opened(chosen);
  Object.assign(bar, { max: files.reduce((sum, file) => sum + file.size, 0) || 1, value: 0 });
  for (const some of batches(files)) {
    $("state").textContent = `Storing ${files.length} files: ${kept} stored`;
    try {
      const answer = await send(some, (loaded) => { bar.value = sent + loaded; });
      kept += answer["00081199"]?.Value?.length ?? 0;
      for (const item of [...(answer["00081198"]?.Value ?? []), ...(answer["0008119A"]?.Value ?? [])]) {
        refused += 1;
        const lines = (item["00741048"]?.Value ?? []).map((one) => value(one, "00000902"));
        const reason = lines.join(" ") || "refused";
        tell([value(item, "00081155"), reason].filter(Boolean).join(": "));
      }
    } catch (error) {
      refused += some.length;
      tell(`${some.length} files: ${error.message}`);
    }
    sent += some.reduce((sum, file) => sum + file.size, 0);
  }
  bar.hidden = true;
  $("state").textContent = `${kept} stored${refused ? `, ${refused} not` : ""}.`;
  offset = 0;
  await list();
}

for (const [kind, over] of [["dragover", true], ["dragleave", false], ["drop", false]]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", over);
  });
}
document.addEventListener("drop", async (event) => store(await dropped(event.dataTransfer)));
for (const id of ["files", "folder"]) {
  $(id).addEventListener("change", async (event) => {
    await store([...event.target.files]);
    event.target.value = "";
  });
  $(`choose-${id}`).addEventListener("click", () => $(id).click());
}
$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  offset = 0;
  list();
});
$("back").addEventListener("click", () => { offset = Math.max(0, offset - PAGE); list(); });
$("on").addEventListener("click", () => { offset += PAGE; list(); });
greet().then(list, list);
