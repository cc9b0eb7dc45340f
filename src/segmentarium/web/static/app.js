// The page: a photo, a clip or the camera in; the person in front of another background out.
// Who computes (a server, or a network in this page) is chosen by config.json; both offer the same two functions.

const $ = (id) => document.getElementById(id);
const SHOWN = 2048; // longer side of what is shown; downloads are as large as what was given
const LIVE = 640; // longer side of frames

// entries: the files that were given, each with its result; file: the one that is shown
const state = { engine: null, file: null, entries: [], job: 0, live: null, address: null };

function say(text, kind = "") {
  // errors interrupt a screen reader, and the number of frames per second, which changes all the time, is not read out
  $("status").ariaLive = kind === "error" ? "assertive" : kind.startsWith("live") ? "off" : "polite";
  $("status").textContent = text;
  $("status").className = kind;
  document.body.classList.toggle("busy", kind === "busy");
}

const fail = (error) => say(error.message || String(error), "error");

const WORDS = { instance: "objects", panoptic: "everything, in segments", semantic: "the class of every pixel" };

// What can be asked of the model that is chosen: a background, or what to find.
function offerTasks() {
  const tasks = state.engine.tasks?.[$("model").value];
  $("background").hidden = Boolean(tasks);
  $("mask").hidden = $("mask").hidden || Boolean(tasks);
  $("segments").hidden = !tasks;
  $("task").replaceChildren(...(tasks ?? []).map((task) => new Option(WORDS[task], task)));
}

function settings() {
  if ($("task").value) return { model: $("model").value, task: $("task").value };
  const choice = document.querySelector("input[name=background]:checked").value;
  const picture = $("picture").files[0];
  if (choice === "picture" && !picture) throw new Error("Choose a picture for the background.");
  const blur = $("amount").value === "2" ? "blur" : `blur:${$("amount").value}`;
  const background = { colour: $("colour").value, picture, blur }[choice] ?? choice;
  return { model: $("model").value, background };
}

function fitted(width, height, limit) {
  const factor = Math.min(1, limit / Math.max(width, height));
  return [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
}

function show(canvas, source, width, height) {
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.clearRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
}

function offer(blob, name) {
  if (state.address) URL.revokeObjectURL(state.address);
  state.address = URL.createObjectURL(blob);
  Object.assign($("save"), { href: state.address, download: name, hidden: false });
  $("save").textContent = `Download ${name.split(".").pop() === "webm" ? "WebM" : "PNG"}`;
}

const named = (file, suffix) =>
  `${(file.name || "picture").replace(/\.[^.]*$/, "")}_${$("task").value ? "segments" : "portrait"}.${suffix}`;

// Every photo that was given, the one that is shown first; what was asked for meanwhile ends the work.
async function photos() {
  const job = ++state.job;
  const others = state.entries.filter((entry) => entry.file !== state.file);
  const shown = state.entries.find((entry) => entry.file === state.file);
  $("save").hidden = $("mask").hidden = $("all").hidden = true;
  for (const entry of state.entries) entry.result = null;
  for (const [number, entry] of [shown, ...others].entries()) {
    if (entry.file === state.file) say("Computing", "busy");
    else say(`Computing ${number + 1} of ${state.entries.length}`, "busy");
    try {
      const started = performance.now();
      const result = await state.engine.photo(entry.file, settings());
      if (job !== state.job) return; // something else was asked for meanwhile
      entry.result = { ...result, seconds: (performance.now() - started) / 1000 };
      entry.problem = null;
    } catch (error) {
      if (job !== state.job) return;
      entry.problem = error;
    }
    await listed(entry);
    if (entry.file === state.file) await look(entry);
  }
  const done = state.entries.filter((entry) => entry.result);
  $("all").hidden = done.length < 2;
  if (state.entries.length > 1) await look(state.entries.find((entry) => entry.file === state.file));
}

// The original and the result of one file under the slider.
async function look(entry) {
  if (entry.problem) return fail(entry.problem);
  const { blob, share, segments, classes, seconds } = entry.result;
  const original = await createImageBitmap(entry.file).catch(() => null); // the server may know more formats
  const result = await createImageBitmap(blob);
  const [width, height] = fitted(result.width, result.height, SHOWN);
  show($("before"), original ?? result, width, height);
  show($("after"), result, width, height);
  explain(classes);
  label(entry.file.name || "the picture");
  given(original ? entry.file : null);
  offer(blob, named(entry.file, "png"));
  $("mask").hidden = Boolean($("task").value);
  const found = segments == null ? "" : `${segments} segment${segments === 1 ? "" : "s"}, `;
  const done = `Done: ${found}${result.width} × ${result.height} in ${seconds.toFixed(1)} s.`;
  const left = state.entries.filter((one) => !one.result && !one.problem).length;
  if (!left) say(share < 0.002 ? "There is nobody in this picture." : done, "done");
}

// What the two canvases are to who cannot see them.
function label(name) {
  $("before").ariaLabel = `the original of ${name}`;
  $("after").ariaLabel = `the result of ${name}`;
}

// Which colour is which class, of overlays.
function explain(classes = []) {
  $("legend").hidden = !classes.length;
  $("legend").replaceChildren(...classes.map(({ name, colour }) => {
    const [item, swatch] = ["li", "span"].map((tag) => document.createElement(tag));
    swatch.style.background = colour;
    item.append(swatch, name);
    return item;
  }));
}

// There is something to show: the drop area makes room, and tiles show the photo that was given.
function given(photo) {
  $("stage").hidden = false;
  document.body.classList.add("given");
  if (!photo) return;
  if (state.preview) URL.revokeObjectURL(state.preview);
  state.preview = URL.createObjectURL(photo);
  document.body.style.setProperty("--photo", `url(${state.preview})`);
}

// The entry's place in the list of files, with a small picture of what became of it.
async function listed(entry) {
  if (!entry.button) return;
  entry.button.title = entry.problem ? entry.problem.message : "";
  entry.button.classList.toggle("failed", Boolean(entry.problem));
  if (!entry.result) return;
  const small = await createImageBitmap(entry.result.blob);
  show(entry.button.querySelector("canvas"), small, ...fitted(small.width, small.height, 160));
}

function list() {
  $("list").hidden = state.entries.length < 2;
  $("list").replaceChildren(...state.entries.map((entry) => {
    const [item, button, label] = ["li", "button", "span"].map((tag) => document.createElement(tag));
    button.type = "button";
    button.append(document.createElement("canvas"), label);
    label.textContent = entry.file.name || "picture";
    button.onclick = () => choose(entry);
    entry.button = button;
    item.append(button);
    return item;
  }));
  mark();
}

const mark = () => {
  for (const { button, file } of state.entries) button?.setAttribute("aria-current", String(file === state.file));
};

function choose(entry) {
  state.file = entry.file;
  mark();
  if (entry.result || entry.problem) look(entry).catch(fail);
}

// How far each pixel belongs to the person, as a grey picture: the alpha of the cut-out.
async function mask() {
  const { file } = state;
  say("Computing the mask", "busy");
  const { blob } = await state.engine.photo(file, { model: $("model").value, background: "transparent" });
  const cut = await createImageBitmap(blob, { premultiplyAlpha: "none" });
  const canvas = new OffscreenCanvas(cut.width, cut.height);
  const context = canvas.getContext("2d");
  context.drawImage(cut, 0, 0);
  const pixels = context.getImageData(0, 0, cut.width, cut.height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    pixels.data.fill(pixels.data[i + 3], i, i + 3);
    pixels.data[i + 3] = 255;
  }
  context.putImageData(pixels, 0, 0);
  take(await canvas.convertToBlob({ type: "image/png" }), named(file, "png").replace("_portrait", "_mask"));
  say("The mask is downloaded.", "done");
}

function take(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

// A recording of the result canvas, with the clip's sound where there is one.
function record(sound) {
  const stream = $("after").captureStream(30);
  for (const track of sound) stream.addTrack(track);
  const type = ["video/webm;codecs=vp8,opus", "video/webm"].find((t) => MediaRecorder.isTypeSupported(t));
  const recorder = new MediaRecorder(stream, { mimeType: type, videoBitsPerSecond: 6e6 });
  const parts = [];
  const recording = { began: false };
  recorder.ondataavailable = (event) => {
    parts.push(event.data);
    recording.began ||= event.data.size > 0;
  };
  const ended = new Promise((done) => {
    recorder.onstop = () => done(new Blob(parts, { type: "video/webm" }));
  });
  recording.end = async () => {
    if (recorder.state !== "inactive") recorder.stop();
    const blob = await ended;
    stream.getVideoTracks().forEach((track) => track.stop());
    return blob;
  };
  recorder.start(250);
  return recording;
}

// Frames of a playing video, one after the other, as many as there is time for.
async function play(video, live, first) {
  let frames = 0;
  const started = performance.now();
  const frame = document.createElement("canvas");
  label(state.file?.name ?? "the camera");
  while (!live.ended && !video.ended) {
    const [width, height] = fitted(video.videoWidth, video.videoHeight, LIVE);
    show(frame, video, width, height);
    const result = await state.engine.frame(frame, settings());
    if (live.ended) break;
    show($("before"), frame, width, height);
    show($("after"), result, width, height);
    explain(result.classes);
    if (result.close) result.close();
    given(null); // before a recording begins: a canvas that nobody sees may be recorded black
    if (frames++ === 0) await first();
    say(`${(frames / ((performance.now() - started) / 1000)).toFixed(1)} frames per second`, live.recording?.began ? "live recording" : "live");
    await new Promise(requestAnimationFrame);
  }
  return frames;
}

async function finish(recording, name) {
  if (!recording) return;
  const blob = await recording.end();
  if (!blob.size) throw new Error("Nothing was recorded: it was too short.");
  offer(blob, name);
}

async function clip() {
  const job = ++state.job;
  const file = state.file;
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, preload: "auto", src: URL.createObjectURL(file) }); // without preload Chromium's first frame is empty
  const live = (state.live = { ended: false });
  let recording = null;
  $("save").hidden = $("mask").hidden = $("all").hidden = true;
  $("stop").hidden = false;
  say("Opening the clip", "busy");
  try {
    await new Promise((done, broken) => {
      video.onloadeddata = done;
      video.onerror = () => broken(new Error("This file is neither a picture nor a clip that this browser can play."));
    });
    const frames = await play(video, live, async () => {
      recording = record(video.captureStream ? video.captureStream().getAudioTracks() : []);
      await video.play();
    });
    if (job !== state.job) return;
    await finish(recording, named(file, "webm"));
    const total = video.getVideoPlaybackQuality?.().totalVideoFrames || frames;
    say(`Done: ${Math.min(frames, total)} of ${total} frames, 640 pixels at most.`, "done"); // where there is time, some are looked at twice
    tellCommand(file);
  } catch (error) {
    if (job === state.job) fail(error);
  } finally {
    live.ended = true;
    recording?.end();
    video.pause();
    URL.revokeObjectURL(video.src);
    if (job === state.job) $("stop").hidden = true;
  }
}

// A word as a POSIX shell reads it back.
const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);

// A page takes as many frames of a clip as it has time for; the command line takes them all.
function tellCommand(file) {
  const { model, task, background } = settings();
  const path = (name) => (name.startsWith("-") ? `./${name}` : name); // no option
  const words = task
    ? ["segment", path(file.name), "--model", model, "--task", task, "--kinds", "overlay"]
    : ["portrait", path(file.name), "--model", model, "--background", background instanceof File ? path(background.name) : background];
  const code = document.createElement("code");
  code.textContent = ["segmentarium", ...words].map(quoted).join(" ");
  $("status").append(" For every frame, at full size: ", code);
}

async function camera() {
  end();
  const job = ++state.job;
  const live = (state.live = { ended: false, recording: null });
  state.file = null;
  state.entries = [];
  list();
  $("save").hidden = $("mask").hidden = $("all").hidden = true;
  let stream = null;
  try {
    if (!navigator.mediaDevices) throw new Error("The camera needs https, or this page on localhost.");
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: { ideal: 1280 } } });
    const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, srcObject: stream });
    await video.play();
    $("stop").hidden = $("record").hidden = false;
    await play(video, live, async () => {});
    await finish(live.recording, "camera.webm");
    if (job === state.job) say("The camera is off.", "done");
  } catch (error) {
    if (job === state.job) fail(error);
  } finally {
    live.ended = true;
    live.recording?.end();
    for (const track of stream?.getTracks() ?? []) track.stop();
    if (job === state.job) $("stop").hidden = $("record").hidden = true;
  }
}

function end() {
  if (state.live) state.live.ended = true;
  state.live = null;
  $("stop").hidden = $("record").hidden = true;
}

// Files that were dropped, chosen or pasted: a clip, or photos.
function open(files) {
  const all = [...files];
  if (!all.length) return;
  end();
  const clips = all.filter((file) => file.type.startsWith("video/"));
  if (clips.length && all.length > 1) return fail(new Error("Give one clip, or several photos, not both."));
  state.entries = clips.length ? [] : all.map((file) => ({ file, result: null, problem: null }));
  state.file = all[0];
  list();
  again();
}

// Frames of a running clip or camera take new settings by themselves.
function again() {
  if (state.live && !state.live.ended) return;
  if (!state.file) return;
  if (state.file.type.startsWith("video/")) clip();
  else photos().catch(fail);
}

function pick(background) {
  document.querySelector(`input[value=${background}]`).checked = true;
  $("strength").hidden = background !== "blur";
}

function listen() {
  $("file").onchange = () => open($("file").files);
  $("mask").onclick = () => mask().catch(fail);
  $("all").onclick = () => {
    for (const { file, result } of state.entries) if (result) take(result.blob, named(file, "png"));
  };
  $("camera").onclick = camera;
  $("stop").onclick = end;
  $("record").onclick = () => {
    if (state.live && !state.live.recording) state.live.recording = record([]);
    $("record").hidden = true;
  };
  $("model").onchange = () => {
    offerTasks();
    again();
  };
  $("task").onchange = again;
  $("amount").oninput = () => document.body.style.setProperty("--amount", $("amount").value);
  $("amount").onchange = again;
  $("colour").oninput = () => { pick("colour"); document.body.style.setProperty("--colour", $("colour").value); };
  $("picture").onchange = () => {
    const picture = $("picture").files[0];
    if (!picture) return;
    pick("picture");
    document.body.style.setProperty("--picture", `url(${URL.createObjectURL(picture)})`);
    again();
  };
  $("colour").onchange = again;
  for (const choice of document.querySelectorAll("input[name=background]")) {
    choice.onchange = () => {
      pick(choice.value);
      if (choice.value === "picture" && !$("picture").files[0]) $("picture").click();
      else again();
    };
  }
  $("slider").oninput = () => {
    $("stage").style.setProperty("--at", `${$("slider").value}%`);
    $("slider").setAttribute("aria-valuetext", `${Math.round($("slider").value)} per cent of the original`);
  };
  document.ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
  document.ondragleave = () => $("drop").classList.remove("over");
  document.ondrop = (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    open(event.dataTransfer.files);
  };
  document.onpaste = (event) => open(event.clipboardData.files);
}

async function start() {
  const config = await (await fetch("config.json")).json();
  const engine = await import(config.mode === "offline" ? "./offline.js" : "./server.js");
  state.engine = await engine.connect(config);
  $("where").textContent = state.engine.where;
  for (const name of state.engine.models) $("model").add(new Option(name, name));
  $("models").hidden = state.engine.models.length < 2;
  offerTasks();
  listen();
  say("Ready.", "ready");
}

start().catch(fail);
