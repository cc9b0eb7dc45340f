// Pictures computed in this page: the exported network runs in onnxruntime-web, and nothing is sent anywhere.

import { blurred, compose, fit, resize, withoutHoles } from "./matte.js";

const GUIDE = 512; // longer side of the small picture on which the matte is fitted; half of it for frames
const SCALES = [1.2, 1, 0.8]; // at which photos are looked at, and mirrored; frames once
const PIXELS = 40e6;
const LEAST = 32; // pixels of a side that every network takes

function scaledSize(width, height, side) {
  const factor = side / Math.max(width, height);
  return [Math.max(1, Math.round(width * factor)), Math.max(1, Math.round(height * factor))];
}

// RGBA bytes of a picture at another size; `cover`: cut to the shape instead of stretched.
function pixelsOf(source, width, height, { mirrored = false, cover = false } = {}) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingQuality = "high";
  if (mirrored) context.setTransform(-1, 0, 0, 1, width, 0);
  if (cover) {
    const factor = Math.max(width / source.width, height / source.height);
    const [wide, tall] = [source.width * factor, source.height * factor];
    context.drawImage(source, (width - wide) / 2, (height - tall) / 2, wide, tall);
  } else context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

class Network {
  constructor(ort, session, model) {
    Object.assign(this, { ort, session, model });
  }

  // The probability of the person, at the size at which the network sees the picture: a mean over sizes and mirror images.
  async probability(source, views) {
    const [width, height] = this.size(source, 1);
    if (!views) return { values: (await this.look(source, 1, false)).values, width, height };
    const values = new Float32Array(width * height);
    for (const scale of SCALES) {
      for (const mirrored of [false, true]) {
        const seen = await this.look(source, scale, mirrored);
        resize(seen.values, seen.width, seen.height, width, height).forEach((value, i) => { values[i] += value / (2 * SCALES.length); });
      }
    }
    return { values: withoutHoles(values, width, height), width, height };
  }

  size(source, scale) {
    const { long_side: side, multiple } = this.model.preprocessing;
    const factor = side * scale / Math.max(source.width, source.height) / multiple;
    return [source.width, source.height].map((value) => Math.max(Math.round(value * factor) * multiple, multiple, LEAST));
  }

  async look(source, scale, mirrored) {
    const { mean, std } = this.model.preprocessing;
    const [width, height] = this.size(source, scale);
    const { data } = pixelsOf(source, width, height, { mirrored });
    const count = width * height;
    const input = new Float32Array(3 * count);
    for (let channel = 0; channel < 3; channel++) {
      const [shift, factor] = [mean[channel], 1 / std[channel]];
      for (let i = 0; i < count; i++) input[channel * count + i] = (data[4 * i + channel] / 255 - shift) * factor;
    }
    const answer = await this.session.run({ image: new this.ort.Tensor("float32", input, [1, 3, height, width]) });
    const logits = answer.logits.data;
    const { num_classes: classes, foreground } = this.model;
    const values = new Float32Array(count);
    for (let i = 0; i < count; i++) values[i] = probabilityAt(logits, i, count, classes, foreground);
    return { values: mirrored ? turned(values, width, height) : values, width, height };
  }
}

function probabilityAt(logits, i, count, classes, foreground) {
  if (classes === 1) return 1 / (1 + Math.exp(foreground === 1 ? -logits[i] : logits[i]));
  let sum = 0;
  for (let k = 0; k < classes; k++) sum += Math.exp(logits[k * count + i] - logits[foreground * count + i]);
  return 1 / sum;
}

function turned(values, width, height) {
  const result = new Float32Array(values.length);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) result[y * width + x] = values[y * width + width - 1 - x];
  return result;
}

async function behindOf(background, guide, matte, width, height) {
  if (background === "transparent") return null;
  if (background instanceof Blob) {
    const picture = await createImageBitmap(background).catch(() => null);
    if (!picture) throw new Error("The background is not a picture that this browser can read.");
    return pixelsOf(picture, width, height, { cover: true }).data;
  }
  const canvas = new OffscreenCanvas(matte.width, matte.height);
  const context = canvas.getContext("2d");
  if (background.startsWith("blur")) {
    const share = Number(background.split(":")[1] ?? 2) / 100; // of the longer side
    context.putImageData(new ImageData(blurred(guide, matte, share), matte.width), 0, 0);
  } else {
    context.fillStyle = background;
    context.fillRect(0, 0, matte.width, matte.height);
  }
  return pixelsOf(canvas, width, height).data;
}

// source: anything that can be drawn and has width and height.  Gives a canvas of the same size.
async function portrait(network, source, background, { views, side }) {
  const { width, height } = source;
  const probability = await network.probability(source, views);
  const [wide, tall] = scaledSize(width, height, Math.min(side, Math.max(width, height)));
  const guide = pixelsOf(source, wide, tall).data;
  const matte = fit(guide, wide, tall, probability.values, probability.width, probability.height);
  const behind = await behindOf(background, guide, matte, width, height);
  const result = pixelsOf(source, width, height);
  const share = compose(result.data, width, height, matte, guide, behind);
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d").putImageData(result, 0, 0);
  return { canvas, share };
}

export async function connect(config) {
  const ort = await import("./ort.wasm.min.mjs");
  ort.env.wasm.wasmPaths = new URL("./", import.meta.url).href;
  ort.env.wasm.numThreads = 1; // more of them need headers that a plain file server does not send
  const networks = new Map();
  const network = (name) => {
    if (!networks.has(name)) {
      const model = config.models.find((one) => one.name === name);
      const session = ort.InferenceSession.create(new URL(model.file, import.meta.url).href, { executionProviders: ["wasm"] });
      networks.set(name, session.then((ready) => new Network(ort, ready, model)));
    }
    return networks.get(name);
  };
  await network(config.models[0].name);
  return {
    where: "Pictures are computed in this page; none of them leaves your browser.",
    models: config.models.map((model) => model.name),
    async photo(file, { model, background }) {
      const picture = await createImageBitmap(file).catch(() => null);
      if (!picture) throw new Error(`${file.name || "This"} is not a picture that this browser can read.`);
      if (picture.width * picture.height > PIXELS) {
        throw new Error(`${picture.width} × ${picture.height} pixels are more than the ${PIXELS / 1e6} million that this page takes.`);
      }
      const { canvas, share } = await portrait(await network(model), picture, background, { views: true, side: GUIDE });
      return { blob: await canvas.convertToBlob({ type: "image/png" }), share };
    },
    async frame(source, { model, background }) {
      return (await portrait(await network(model), source, background, { views: false, side: GUIDE / 2 })).canvas;
    },
  };
}
