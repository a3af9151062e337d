"use strict";
// One pair after another. Everything from outside is put in as text, never as markup.
(() => {
const config = JSON.parse(document.getElementById("config").textContent);
const $ = (id) => document.getElementById(id);
const query = new URLSearchParams(location.search);
let name = (query.get("name") || "").trim(), pair = null, busy = false;

const address = (path, more = {}) => `${path}?${new URLSearchParams({ token: config.token, name, ...more })}`;
async function ask(path, body) {
  const options = body ? { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) } : {};
  const answer = await fetch(address(path), { cache: "no-store", ...options });
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 300));
  return answer.json();
}
function put(node, content, alt) {
  node.replaceChildren();
  if (content.text !== undefined) node.textContent = content.text;
  else {
    const image = document.createElement("img");
    image.src = address(`picture/${content.picture}`);
    image.alt = alt;
    node.append(image);
  }
}
function show(news) {
  $("progress").textContent = `${news.done} of ${news.total} pairs`;
  $("bar").max = news.total || 1;
  $("bar").value = news.done;
  pair = news.pair;
  $("question").hidden = !pair;
  $("done").hidden = Boolean(pair);
  $("undo").disabled = !news.done;
  if (pair) {
    put($("given"), pair.given, "the input");
    put($("left"), pair.left, "the left candidate");
    put($("right"), pair.right, "the right candidate");
    document.body.dataset.pair = pair.id;
  } else {
    delete document.body.dataset.pair;
    finish();
  }
}
async function guarded(work) {
  if (busy) return;
  busy = true;
  try {
    show(await work());
    $("trouble").hidden = true;
  } catch (error) {
    $("trouble").textContent = `That answer was not kept: ${error.message}. Is the command still running?`;
    $("trouble").hidden = false;
  } finally {
    busy = false;
  }
}
const reply = (answer) => pair && guarded(() => ask("answer", { pair: pair.id, left: pair.left.id, right: pair.right.id, answer }));
const undo = () => guarded(() => ask("undo", {}));
const percent = (share) => `${(100 * share).toFixed(1)}%`;
async function finish() {
  const found = await ask("result");
  const lines = [`${found.answered} of ${found.pairs} pairs are answered, ${found.clear} of them for one candidate.`];
  const alpha = found.people.alpha;
  if (alpha && alpha.alpha !== null)
    lines.push(`Krippendorff's alpha between people: ${alpha.alpha.toFixed(2)} (${alpha.low.toFixed(2)} to ${alpha.high.toFixed(2)}, ${alpha.pairs} shared pairs).`);
  for (const [scorer, of] of Object.entries(found.scorers)) {
    const span = of.low === null ? "" : ` (${percent(of.low)} to ${percent(of.high)})`;
    lines.push(`${scorer} agrees with people on ${percent(of.share)}${span} of ${of.pairs} pairs.`);
  }
  $("result").replaceChildren(...lines.map((line) => { const p = document.createElement("p"); p.textContent = line; return p; }));
}
function begin() {
  $("name-form").hidden = Boolean(name);
  $("who").textContent = name ? `You answer as ${name}.` : "Answers are kept under a name, so that several people can be compared.";
  if (name) guarded(() => ask("next"));
}
$("name-form").addEventListener("submit", (event) => {
  event.preventDefault();
  name = $("name").value.trim();
  query.set("name", name);
  history.replaceState(null, "", `?${query}`);
  begin();
});
$("left").addEventListener("click", () => reply("left"));
$("right").addEventListener("click", () => reply("right"));
for (const button of document.querySelectorAll("[data-answer]")) button.addEventListener("click", () => reply(button.dataset.answer));
$("undo").addEventListener("click", undo);
$("undo-last").addEventListener("click", undo);
const KEYS = { 1: "left", 2: "right", t: "tie", s: "skip" };
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.target.tagName === "INPUT") return;
  if (KEYS[event.key]) { reply(KEYS[event.key]); event.preventDefault(); }
  else if (event.key === "u") { undo(); event.preventDefault(); }
});
begin();
})();
