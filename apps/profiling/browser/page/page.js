// The page of one measuring session: says what this device is, runs the queue, shows and posts what came out.
"use strict";

const HEARTBEAT_MS = 5000;
// A slow phone's first run of a large network takes a minute; silence for longer than this is a hang.
const SILENCE_LIMIT_MS = 180000;
const RUN_KEY = "edge-sr-run";
const byId = (id) => document.getElementById(id);

const session = { run: "", plan: null, done: 0, total: 0 };
let wasHidden = document.hidden;
document.addEventListener("visibilitychange", () => { wasHidden ||= document.hidden; });

main().catch((error) => fail(plain(error)));

async function main() {
  const plan = await post("hello", { ...(await describeDevice()), resume: sessionStorage.getItem(RUN_KEY) });
  session.run = plan.run;
  sessionStorage.setItem(RUN_KEY, plan.run);
  session.plan = plan;
  draw(plan);
  const heartbeat = setInterval(() => void beat(), HEARTBEAT_MS);
  if (!plan.autostart) await pressed(byId("start"));
  await runQueue(plan);
  clearInterval(heartbeat);
  await post("bye", {});
  sessionStorage.removeItem(RUN_KEY);
  state("Done", "The computer has all the numbers. You can close this page.");
  document.documentElement.dataset.finished = "yes";
}

// ------------------------------------------------------------------------------------------------------ the device
async function describeDevice() {
  const ua = navigator.userAgentData;
  const names = ["architecture", "bitness", "model", "platform", "platformVersion", "fullVersionList"];
  const high = ua?.getHighEntropyValues ? await ua.getHighEntropyValues(names).catch(() => null) : null;
  return {
    user_agent: navigator.userAgent,
    client_hints: high && {
      architecture: high.architecture || "", bitness: high.bitness || "", model: high.model || "",
      platform: high.platform || "", platform_version: high.platformVersion || "", mobile: Boolean(ua.mobile),
      brands: (high.fullVersionList || ua.brands || []).slice(0, 8).map((b) => ({ brand: b.brand, version: b.version })),
    },
    hardware_concurrency: navigator.hardwareConcurrency ?? null,
    device_memory_gb: navigator.deviceMemory ?? null,
    secure_context: isSecureContext,
    cross_origin_isolated: crossOriginIsolated,
    automated: Boolean(navigator.webdriver),
    clock_resolution_ms: clockResolution(),
    screen: { width: screen.width, height: screen.height, pixel_ratio: devicePixelRatio },
    webgpu: await describeGpu(),
  };
}

async function describeGpu() {
  if (!navigator.gpu) return null;
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" }).catch(() => null);
  if (!adapter) return null;
  const { vendor = "", architecture = "", device = "", description = "", isFallbackAdapter } = adapter.info ?? {};
  const fallback = Boolean(isFallbackAdapter ?? adapter.isFallbackAdapter);
  return { vendor, architecture, device, description, fallback, shader_f16: adapter.features.has("shader-f16") };
}

function clockResolution() {
  let smallest = Infinity;
  for (let steps = 0; steps < 10; steps++) {
    const before = performance.now();
    let after = before;
    while (after === before) after = performance.now();
    smallest = Math.min(smallest, after - before);
  }
  return smallest;
}

// ------------------------------------------------------------------------------------------------------- the queue
async function runQueue(plan) {
  const wakeLock = await navigator.wakeLock?.request("screen").catch(() => null);
  for (const [job, artifact] of plan.artifacts.entries()) {
    const open = plan.configurations.filter((one) => !one.unavailable && !plan.finished.includes(`${job}/${one.id}`));
    if (open.length === 0) continue;
    const [model, pixels] = await Promise.all([bytes(`model/${job}`), bytes(`tile/${job}`)]);
    for (const configuration of open) {
      state(`Measuring ${session.done + 1} of ${session.total}`, "Keep this page in front and the screen on.");
      await runOne({ job, artifact, configuration, model, pixels });
      session.done += 1;
      byId("overall").value = session.done / session.total;
    }
  }
  await wakeLock?.release().catch(() => undefined);
}

async function runOne({ job, artifact, configuration, model, pixels }) {
  const row = rowOf(job, configuration.id);
  wasHidden = document.hidden;
  let numerics = null;
  const task = {
    model, pixels, input: artifact.input, runs: session.plan.runs, max_ms: session.plan.max_ms,
    backend: configuration.backend, threads: configuration.threads, precision: configuration.precision,
  };
  const outcome = await inWorker(task, async (message, worker, end) => {
    if (message.kind === "output") {
      showPicture(artifact, pixels, message.stored, configuration);
      numerics = await post(`output/${job}/${configuration.id}`, message.stored);
      if (numerics.agrees) worker.postMessage({ kind: "go" });
      else end({ kind: "failed", reason: numerics.summary });
    } else if (message.kind === "progress") {
      row.show("running", message.phase, message.total ? message.done / message.total : null);
      void beat({ job, configuration: configuration.id, ...message });
    }
  });
  const result = { status: outcome.kind, reason: outcome.reason ?? null, timing: outcome.timing ?? null };
  const kept = await post(`result/${job}/${configuration.id}`, { ...result, hidden: wasHidden });
  showRow(row, artifact, outcome, numerics, kept);
}

// Resolves to the worker's last word; a worker that dies or falls silent has said "failed".
function inWorker(task, onMessage) {
  return new Promise((resolve) => {
    const worker = new Worker("worker.js");
    let pending = Promise.resolve();
    let watchdog = 0;
    const end = (outcome) => {
      clearTimeout(watchdog);
      worker.terminate();
      resolve(outcome);
    };
    const watch = () => {
      clearTimeout(watchdog);
      const reason = `nothing happened for ${SILENCE_LIMIT_MS / 1000} s; the measurement was stopped`;
      watchdog = setTimeout(() => end({ kind: "failed", reason }), SILENCE_LIMIT_MS);
    };
    worker.onmessage = ({ data }) => {
      watch();
      if (["measured", "skipped", "failed"].includes(data.kind)) end(data);
      else pending = pending.then(() => onMessage(data, worker, end)).catch((error) => end({ kind: "failed", reason: plain(error) }));
    };
    worker.onerror = (event) => end({ kind: "failed", reason: (event.message || "the worker could not be started").slice(0, 400) });
    watch();
    worker.postMessage(task);
  });
}

// -------------------------------------------------------------------------------------------------------- the page
function draw(plan) {
  byId("device").textContent = plan.title;
  byId("facts").textContent = plan.facts.join(" · ");
  if (plan.hints.length) {
    const list = document.createElement("ul");
    for (const hint of plan.hints) list.append(element("li", hint));
    byId("hints").append(element("h2", "What would measure more"), list);
    byId("hints").hidden = false;
  }
  for (const [job, artifact] of plan.artifacts.entries()) {
    const card = byId("artifact-template").content.cloneNode(true);
    card.querySelector("h2").textContent = title(artifact);
    const [height, width] = artifact.tile;
    const kb = Math.round(artifact.size_bytes / 1000);
    card.querySelector("p").textContent = `${width}×${height} pixels in, ${width * artifact.scale}×${height * artifact.scale} out, ${kb} kB`;
    for (const configuration of plan.configurations) card.querySelector("ul").append(newRow(plan, job, configuration));
    byId("queue").append(card);
  }
  const open = plan.configurations.filter((one) => !one.unavailable).length * plan.artifacts.length;
  session.total = open;
  session.done = plan.finished.length;
  byId("overall").hidden = false;
  byId("overall").value = open ? session.done / open : 1;
  const minutes = Math.max(1, Math.ceil(((open - session.done) * (plan.max_ms + 5000)) / 60000));
  state("Ready", `${open - session.done} measurements, at most about ${minutes} min. Close other apps and let the device cool first.`);
}

function newRow(plan, job, configuration) {
  const row = byId("row-template").content.cloneNode(true).firstElementChild;
  row.dataset.key = `${job}/${configuration.id}`;
  row.querySelector(".label").textContent = configuration.label;
  if (configuration.unavailable) {
    row.dataset.state = "skipped";
    row.querySelector(".value").textContent = "not possible here";
    row.querySelector(".detail").textContent = configuration.unavailable;
  } else if (plan.finished.includes(row.dataset.key)) {
    row.querySelector(".value").textContent = "measured before";
  }
  return row;
}

function rowOf(job, id) {
  const item = document.querySelector(`[data-key="${job}/${id}"]`);
  const show = (newState, value, share = null, detail = "") => {
    item.dataset.state = newState;
    item.querySelector(".value").textContent = value;
    item.querySelector(".bar span").style.width = `${100 * (share ?? 0)}%`;
    item.querySelector(".detail").replaceChildren(...[detail].flat());
  };
  return { item, show };
}

function showRow(row, artifact, outcome, numerics, kept) {
  if (outcome.kind === "skipped") return row.show("skipped", "not possible here", null, outcome.reason);
  if (outcome.kind === "failed") return row.show("failed", "failed", null, outcome.reason);
  const sorted = [...outcome.timing.samples_ms].sort((a, b) => a - b);
  const [first, median, third] = [0.25, 0.5, 0.75].map((share) => quantile(sorted, share));
  row.item.dataset.median = median;
  const verdict = element("span", numerics.summary);
  verdict.className = "verdict good";
  const notes = kept.notes.map((note) => ` ${note}`).join("");
  const range = ` · ${ms(first)} to ${ms(third)} ms, ${sorted.length} runs, first ${ms(outcome.timing.first_ms)} ms.${notes}`;
  row.show("done", `${ms(median)} ms`, 1, [verdict, range]);
  scaleBars();
}

// All bars share a scale: the slowest fills its line.
function scaleBars() {
  const done = [...document.querySelectorAll('[data-state="done"][data-median]')];
  const slowest = Math.max(...done.map((item) => Number(item.dataset.median)));
  for (const item of done) item.querySelector(".bar span").style.width = `${(100 * Number(item.dataset.median)) / slowest}%`;
}

function showPicture(artifact, pixels, stored, configuration) {
  const [height, width] = artifact.tile;
  const [before, after] = [byId("before"), byId("after")];
  const scaled = stored instanceof Uint8Array ? stored : Uint8ClampedArray.from(stored, (value) => Math.floor(value * 255 + 0.5));
  paint(after, scaled, width * artifact.scale, height * artifact.scale);
  paint(before, pixels, width, height);
  byId("caption").textContent = `${title(artifact)}, ${configuration.label}: each input pixel becomes ${artifact.scale}×${artifact.scale}.`;
  byId("picture").hidden = false;
  byId("split").oninput = split;
  split();
}

function paint(canvas, rgb, width, height) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let from = 0, to = 0; from < rgb.length; from += 3, to += 4) {
    image.data.set([rgb[from], rgb[from + 1], rgb[from + 2], 255], to);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function split() {
  const share = Number(byId("split").value);
  byId("before").style.clipPath = `inset(0 ${100 - share}% 0 0)`;
  byId("divider").style.left = `${share}%`;
}

function title(artifact) {
  return `${artifact.model} ×${artifact.scale}, ${artifact.scheme}`;
}

function state(heading, advice) {
  byId("state").textContent = heading;
  byId("advice").textContent = advice;
}

function fail(reason) {
  state("Stopped", "The numbers above, if any, are what was measured until then.");
  byId("start").hidden = true;
  byId("error").textContent = reason;
  byId("error").hidden = false;
  document.documentElement.dataset.finished = "failed";
}

function pressed(button) {
  button.hidden = false;
  return new Promise((resolve) => button.addEventListener("click", () => { button.hidden = true; resolve(); }, { once: true }));
}

// -------------------------------------------------------------------------------------------------- the connection
async function post(path, content) {
  const binary = ArrayBuffer.isView(content);
  const headers = { "Content-Type": binary ? "application/octet-stream" : "application/json", "Edge-SR-Run": session.run };
  const response = await fetch(path, { method: "POST", headers, body: binary ? content : JSON.stringify(content) });
  return answer(response);
}

async function bytes(path) {
  const response = await fetch(path);
  if (!response.ok) return answer(response);
  return new Uint8Array(await response.arrayBuffer());
}

async function answer(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error || `The computer refused with status ${response.status}.`);
  return body;
}

async function beat(progress = {}) {
  const { job = null, configuration = null, phase = "waiting", done = 0, total = 0 } = progress;
  // Lost progress is no loss: the results decide.
  await post("progress", { job, configuration, phase, done, total }).catch(() => undefined);
}

function plain(error) {
  if (error instanceof TypeError && /fetch|network|load failed/i.test(error.message)) {
    return "The computer does not answer any more: it stopped listening, or the network between the two is gone.";
  }
  return error instanceof Error ? error.message : String(error);
}

function quantile(sorted, share) {
  const place = share * (sorted.length - 1);
  const low = Math.floor(place);
  return sorted[low] + (place - low) * ((sorted[low + 1] ?? sorted[low]) - sorted[low]);
}

function ms(value) {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

function element(tag, text) {
  const made = document.createElement(tag);
  made.textContent = text;
  return made;
}
