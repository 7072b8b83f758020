// Measures one artifact in one configuration, in a thread of its own: the page stays alive while it runs, and a runtime
// that hangs or aborts is ended with its worker. A classic worker: LiteRT.js 2.5.3 loads its WebAssembly with
// importScripts, which module workers do not have.
"use strict";

const WARMUP_RUNS = 3;
const WARMUP_MS = 500;
const FEWEST_SAMPLES = 10;
// Where ten runs take longer than this many times the time allowed, fewer must do.
const PATIENCE = 3;
const FEWEST_SAMPLES_EVER = 3;
// One sample lasts at least this many ticks of the clock, so that a tick is at most 5% of it.
const TICKS_PER_SAMPLE = 20;
const LARGEST_BATCH = 10000;
const REPORT_EVERY_MS = 250;

let goOn = null;

self.onmessage = async (event) => {
  if (event.data.kind === "go") return goOn();
  try {
    await measure(event.data);
  } catch (error) {
    self.postMessage({ kind: "failed", reason: describe(error) });
  }
};

async function measure(task) {
  const { lib, build, runtimeLoadMs } = await loadRuntime(task);
  say("loading the model");
  const started = performance.now();
  const model = await lib.loadAndCompile(new Uint8Array(task.model), compileOptions(task));
  const loadMs = performance.now() - started;
  // Without JSPI the runtime silently takes WebAssembly where the GPU cannot do all operators; that is no GPU figure.
  if (task.backend === "webgpu" && model.options.accelerator !== "webgpu") {
    self.postMessage({ kind: "skipped", reason: "this browser's WebGPU cannot run all of this network's operators" });
    return;
  }
  const once = () => upscale(lib, model, task);
  say("first run");
  const firstStarted = performance.now();
  const first = await once();
  const firstMs = performance.now() - firstStarted;
  // Painting and sending the picture must be over before the clock counts.
  const go = new Promise((resolve) => (goOn = resolve));
  self.postMessage({ kind: "output", stored: first.stored });
  await go;

  const { warmupRuns, estimateMs } = await warmUp(once, task);
  const tickMs = clockResolution();
  const batch = Math.min(LARGEST_BATCH, Math.max(1, Math.ceil((TICKS_PER_SAMPLE * tickMs) / Math.max(estimateMs, 1e-6))));
  const { samples, last } = await takeSamples(once, batch, task);
  self.postMessage({
    kind: "measured",
    timing: {
      runtime_build: build,
      runtime_load_ms: runtimeLoadMs,
      load_ms: loadMs,
      first_ms: firstMs,
      warmup_runs: warmupRuns,
      runs_per_sample: batch,
      samples_ms: samples,
      clock_resolution_ms: tickMs,
      fully_accelerated: task.backend === "webgpu" ? Boolean(model.isFullyAccelerated) : null,
      output_stable: sameBytes(first.stored, last.stored),
    },
  });
}

async function loadRuntime(task) {
  say("loading the runtime");
  const base = new URL("runtime/", self.location.href).href;
  const threads = task.backend === "wasm" && task.threads > 1;
  const jspi = task.backend === "webgpu" && "Suspending" in WebAssembly;
  let build = "";
  // The loader's own threads cannot tell from a worker where its files are.
  self.Module = {
    mainScriptUrlOrBlob: base + "litert_wasm_threaded_internal.js",
    locateFile: (name) => {
      build = name.replace(/\.wasm$/, "");
      return base + name;
    },
  };
  const started = performance.now();
  const lib = await import(base + "index.js");
  await lib.loadLiteRt(base, { threads, jspi });
  if (task.backend === "webgpu" && !lib.getWebGpuDevice()) throw new Error("the browser gave no WebGPU device");
  return { lib, build, runtimeLoadMs: performance.now() - started };
}

function compileOptions(task) {
  if (task.backend === "webgpu") return { accelerator: "webgpu", gpuOptions: { precision: task.precision } };
  return { accelerator: "wasm", cpuOptions: { numThreads: task.threads } };
}

// Picture in, picture out, both 8-bit RGB, conversions included: what the other devices are timed on.
async function upscale(lib, model, task) {
  const input = new lib.Tensor(toStored(task.pixels, task.input), task.input.shape);
  let outputs = [];
  try {
    outputs = await model.run([input]);
    // Reading it back is what waits for a GPU.
    const stored = await outputs[0].data();
    return { stored, pixels: toPixels(stored) };
  } finally {
    input.delete();
    for (const output of outputs) output.delete();
  }
}

function toStored(pixels, spec) {
  if (spec.dtype === "uint8") return pixels;
  const stored = new Float32Array(pixels.length);
  const step = Math.fround(1 / 255);
  for (let i = 0; i < pixels.length; i++) stored[i] = pixels[i] * step;
  return stored;
}

function toPixels(stored) {
  if (stored instanceof Uint8Array) return stored;
  const pixels = new Uint8ClampedArray(stored.length);
  for (let i = 0; i < stored.length; i++) pixels[i] = Math.floor(Math.fround(stored[i] * 255) + 0.5);
  return pixels;
}

async function warmUp(once, task) {
  say("warming up");
  const times = [];
  const started = performance.now();
  const more = (spent) => (times.length < WARMUP_RUNS && spent < task.max_ms) || (spent < WARMUP_MS && times.length < task.runs);
  while (times.length === 0 || more(performance.now() - started)) {
    await once();
    times.push(performance.now());
  }
  // Of the later half: the first runs are several times as slow while the browser is still compiling.
  const later = [started, ...times].slice(Math.floor(times.length / 2));
  return { warmupRuns: times.length, estimateMs: (later[later.length - 1] - later[0]) / (later.length - 1) };
}

async function takeSamples(once, batch, task) {
  const samples = [];
  let last = null;
  const started = performance.now();
  let reported = started;
  while (samples.length < task.runs) {
    const now = performance.now();
    if (samples.length >= FEWEST_SAMPLES && now - started > task.max_ms) break;
    if (samples.length >= FEWEST_SAMPLES_EVER && now - started > PATIENCE * task.max_ms) break;
    if (samples.length === 0 || now - reported > REPORT_EVERY_MS) {
      reported = now;
      self.postMessage({ kind: "progress", phase: "measuring", done: samples.length, total: task.runs });
    }
    const before = performance.now();
    for (let i = 0; i < batch; i++) last = await once();
    samples.push((performance.now() - before) / batch);
  }
  return { samples, last };
}

// The smallest step that the clock is seen to make.
function clockResolution() {
  let smallest = Infinity;
  for (let steps = 0; steps < 20; steps++) {
    const before = performance.now();
    let after = before;
    while (after === before) after = performance.now();
    smallest = Math.min(smallest, after - before);
  }
  return smallest;
}

function sameBytes(one, other) {
  const a = new Uint8Array(one.buffer, one.byteOffset, one.byteLength);
  const b = new Uint8Array(other.buffer, other.byteOffset, other.byteLength);
  return a.length === b.length && a.every((value, index) => value === b[index]);
}

function say(phase) {
  self.postMessage({ kind: "progress", phase, done: 0, total: 0 });
}

function describe(error) {
  const text = error instanceof Error ? error.message : String(error);
  return text.split("\n")[0].slice(0, 400) || "an error without a message";
}
