// The page: a photo, a clip or the camera in; the person in front of another background out.
// Who computes (a server, or a network in this page) is chosen by config.json; both offer the same two functions.

const $ = (id) => document.getElementById(id);
const SHOWN = 2048; // longer side of what is shown; downloads are as large as what was given
const LIVE = 640; // longer side of frames

const state = { engine: null, file: null, job: 0, live: null, address: null };

function say(text, kind = "") {
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
  $("segments").hidden = !tasks;
  $("task").replaceChildren(...(tasks ?? []).map((task) => new Option(WORDS[task], task)));
}

function settings() {
  if ($("task").value) return { model: $("model").value, task: $("task").value };
  const choice = document.querySelector("input[name=background]:checked").value;
  const picture = $("picture").files[0];
  if (choice === "picture" && !picture) throw new Error("Choose a picture for the background.");
  const background = { colour: $("colour").value, picture }[choice] ?? choice;
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

async function photo() {
  const job = ++state.job;
  const file = state.file;
  $("save").hidden = true;
  say("Computing", "busy");
  try {
    const chosen = settings();
    const original = await createImageBitmap(file).catch(() => null); // the server may know more formats
    const started = performance.now();
    const { blob, share, segments } = await state.engine.photo(file, chosen);
    if (job !== state.job) return; // something else was asked for meanwhile
    const result = await createImageBitmap(blob);
    const [width, height] = fitted(result.width, result.height, SHOWN);
    show($("before"), original ?? result, width, height);
    show($("after"), result, width, height);
    $("stage").hidden = false;
    offer(blob, named(file, "png"));
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    const found = segments == null ? "" : `${segments} segment${segments === 1 ? "" : "s"}, `;
    const done = `Done: ${found}${result.width} × ${result.height} in ${seconds} s.`;
    say(share < 0.002 ? "There is nobody in this picture." : done, "done");
  } catch (error) {
    if (job === state.job) fail(error);
  }
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
  while (!live.ended && !video.ended) {
    const [width, height] = fitted(video.videoWidth, video.videoHeight, LIVE);
    show(frame, video, width, height);
    const result = await state.engine.frame(frame, settings());
    if (live.ended) break;
    show($("before"), frame, width, height);
    show($("after"), result, width, height);
    if (result.close) result.close();
    if (frames++ === 0) await first();
    $("stage").hidden = false;
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
  const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true, src: URL.createObjectURL(file) });
  const live = (state.live = { ended: false });
  let recording = null;
  $("save").hidden = true;
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
    say(`Done: ${frames} frames.`, "done");
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

async function camera() {
  end();
  const job = ++state.job;
  const live = (state.live = { ended: false, recording: null });
  state.file = null;
  $("save").hidden = true;
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

function open(file) {
  if (!file) return;
  end();
  state.file = file;
  again();
}

// Frames of a running clip or camera take new settings by themselves.
function again() {
  if (state.live && !state.live.ended) return;
  if (!state.file) return;
  if (state.file.type.startsWith("video/")) clip();
  else photo();
}

function listen() {
  $("file").onchange = () => open($("file").files[0]);
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
  $("colour").oninput = () => { document.querySelector("input[value=colour]").checked = true; };
  $("picture").onchange = () => { document.querySelector("input[value=picture]").checked = true; again(); };
  $("colour").onchange = again;
  for (const choice of document.querySelectorAll("input[name=background]")) {
    choice.onchange = () => {
      if (choice.value === "picture" && !$("picture").files[0]) $("picture").click();
      else again();
    };
  }
  $("slider").oninput = () => $("stage").style.setProperty("--at", `${$("slider").value}%`);
  document.ondragover = (event) => { event.preventDefault(); $("drop").classList.add("over"); };
  document.ondragleave = () => $("drop").classList.remove("over");
  document.ondrop = (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    open(event.dataTransfer.files[0]);
  };
  document.onpaste = (event) => open(event.clipboardData.files[0]);
}

async function start() {
  const config = await (await fetch("config.json")).json();
  const engine = await import(config.mode === "offline" ? "./offline.js" : "./server.js");
  state.engine = await engine.connect(config);
  $("where").textContent = state.engine.where;
  for (const name of state.engine.models) $("model").add(new Option(name, name));
  offerTasks();
  listen();
  say("Ready.", "ready");
}

start().catch(fail);
