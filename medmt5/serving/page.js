"use strict";
// All text is set by textContent: what was pasted stays text, whatever it looks like.

const find = (id) => document.getElementById(id);
const form = find("form"), text = find("text"), button = find("submit"), status_ = find("status"), error = find("error");
const tip = find("tip"), json = find("json");
const hues = new Map();
let busy = true;

for (const label of document.querySelectorAll(".label")) {
  hues.set(label.querySelector("input").value, label.dataset.hue);
  label.style.setProperty("--hue", label.dataset.hue);
}

function element(name, content, hue) {
  const made = document.createElement(name);
  made.textContent = content;
  if (hue !== undefined) made.style.setProperty("--hue", hue);
  return made;
}

function setBusy(value, message) {
  busy = value;
  button.setAttribute("aria-disabled", String(value));
  status_.textContent = message;
}

async function waitForModel() {
  setBusy(true, "The model is being loaded …");
  for (;;) {
    try {
      if ((await fetch("health", { cache: "no-store" })).ok) break;
    } catch {
      setBusy(true, "The service does not answer; trying again …");
    }
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
  setBusy(false, "");
}

async function request(body) {
  let response;
  try {
    response = await fetch("label", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  } catch {
    throw new Error("The service did not answer. Is it still running?");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `The service answered with error ${response.status}.`);
  return answer.documents[0];
}

async function label() {
  if (busy) return;
  error.textContent = "";
  const labels = [...form.querySelectorAll("input:checked")].map((box) => box.value);
  const lang = find("lang").value;
  const body = JSON.stringify({ text: text.value, labels, lang });
  const bytes = new Blob([body]).size, most = Number(document.body.dataset.maxBytes);
  if (!text.value.trim()) return refuse("There is no text yet.", text);
  if (!labels.length) return refuse("Tick at least one label.", form.querySelector("input"));
  if (bytes > most) return refuse(`The text is too long: ${bytes} bytes, ${most} are taken. Label it in parts.`, text);
  setBusy(true, "Labelling …");
  try {
    show(await request(body), lang);
    setBusy(false, "");
  } catch (problem) {
    setBusy(false, "");
    error.textContent = problem.message;
  }
}

function refuse(message, where) {
  error.textContent = message;
  where.focus();
}

function show(result, lang) {
  // Offsets count code points, JavaScript's strings UTF-16 units.
  const characters = Array.from(result.text);
  const rows = find("spans").querySelector("tbody");
  const marked = find("marked");
  marked.replaceChildren();
  marked.lang = lang;
  rows.replaceChildren();
  let position = 0;
  for (const span of result.spans) {
    const hue = hues.get(span.label);
    const mark = element("mark", span.text, hue);
    mark.append(element("small", span.label));
    mark.tabIndex = 0;
    mark.dataset.tip = `${span.label}, probability ${probability(span)}`;
    marked.append(characters.slice(position, span.start).join(""), mark);
    position = span.end;
    const row = rows.insertRow(), cells = [row.insertCell(), row.insertCell(), row.insertCell()];
    cells[0].append(element("small", span.label, hue));
    cells[1].textContent = span.text;
    cells[1].lang = marked.lang;
    cells[2].className = "number";
    cells[2].textContent = probability(span);
  }
  marked.append(characters.slice(position).join(""));
  json.textContent = JSON.stringify(result, null, 1);
  find("spans").hidden = !result.spans.length;
  find("heading").textContent = result.spans.length === 1 ? "1 span" : `${result.spans.length || "No"} spans`;
  find("result").hidden = false;
  find("heading").focus();
}

const probability = (span) => span.probability.toFixed(2);

async function copy() {
  let copied = "Copied";
  try {
    await navigator.clipboard.writeText(json.textContent);
  } catch {
    // Browsers give the clipboard to https and to this machine only.
    json.closest("details").open = true;
    getSelection().selectAllChildren(json);
    copied = "Press Ctrl + C";
  }
  find("copy").textContent = copied;
  setTimeout(() => { find("copy").textContent = "Copy JSON"; }, 2000);
}

function showTip(event) {
  const mark = event.target.closest("mark");
  hideTip();
  if (!mark) return;
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  mark.setAttribute("aria-describedby", "tip");
  const place = mark.getClientRects()[0];
  const left = Math.min(place.left, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${place.top - tip.offsetHeight - 4 > 0 ? place.top - tip.offsetHeight - 4 : place.bottom + 4}px`;
}

function hideTip() {
  tip.hidden = true;
  document.querySelector("mark[aria-describedby]")?.removeAttribute("aria-describedby");
}

form.addEventListener("submit", (event) => { event.preventDefault(); label(); });
text.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); label(); }
});
find("copy").addEventListener("click", copy);
for (const kind of ["mouseover", "focusin"]) find("marked").addEventListener(kind, showTip);
for (const kind of ["mouseleave", "focusout"]) find("marked").addEventListener(kind, hideTip);
addEventListener("scroll", hideTip, { passive: true });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
waitForModel();
