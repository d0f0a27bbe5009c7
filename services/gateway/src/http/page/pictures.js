// The pictures that somebody chose: their files, how they would be cut, and the handles that stand for them.

import { Failure, read } from "./gateway.js";
import { bytes } from "./dom.js";

/** A picture of this conversation. */
export class Picture {
  constructor(file) {
    this.file = file;
    this.name = file.name || "pasted picture";
    /** Where the browser finds it. */
    this.url = URL.createObjectURL(file);
    /** How it would be cut. */
    this.plan = null;
    /** Stands for it at the gateway, once an answer told. */
    this.handle = null;
  }

  /** Asks how it would be cut; `most`: bytes that the gateway takes. */
  async inspect(most) {
    if (this.file.size > most) {
      const message = `${this.name} has ${bytes(this.file.size)}, the limit is ${bytes(most)}`;
      throw new Failure(message, "MESSAGE_TOO_LARGE", "Make it smaller.");
    }
    try {
      this.plan = await read("/tessera/inspect", { method: "POST", body: this.file });
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      const advice = error.advice || "Choose a JPEG, PNG, WebP, GIF, BMP or TIFF file.";
      throw new Failure(error.message.replace(/^image: /, `${this.name}: `), error.reason, advice, error.about);
    }
  }

  /** What stands for it in a message: its handle, or else the file itself. */
  async part() {
    if (this.handle) return { type: "image_embedding", image_embedding: { handle: this.handle } };
    const text = await base64(this.file);
    const type = `image/${this.plan.format.toLowerCase()}`;
    return { type: "image_url", image_url: { url: `data:${type};base64,${text}` } };
  }

  /** Bytes that it takes in a request. */
  size() {
    return this.handle ? 0 : Math.ceil(this.file.size / 3) * 4;
  }

  forget() {
    URL.revokeObjectURL(this.url);
  }
}

async function base64(file) {
  const reader = new FileReader();
  await new Promise((done, failed) => {
    reader.onload = done;
    reader.onerror = () => failed(new Failure(`${file.name} cannot be read`, "FILE_UNREADABLE", "Was it moved? Add it again."));
    reader.readAsDataURL(file);
  });
  return reader.result.slice(reader.result.indexOf(",") + 1);
}

/** Takes the files that are dropped on the page, pasted, or chosen. */
export function takeFiles({ input, buttons, isWelcome, take }) {
  const given = (list) => {
    const files = [...(list ?? [])];
    if (files.length && isWelcome()) take(files);
    return files.length > 0;
  };
  for (const button of buttons) button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    given(input.files);
    input.value = "";
  });
  document.addEventListener("paste", (event) => {
    if (given(event.clipboardData?.files)) event.preventDefault();
  });
  // Elsewhere a dropped file would replace the page.
  let inside = 0;
  const show = (change) => {
    inside = Math.max(0, inside + change);
    document.body.classList.toggle("dropping", inside > 0 && isWelcome());
  };
  document.addEventListener("dragenter", () => show(1));
  document.addEventListener("dragleave", () => show(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    show(-inside);
    given(event.dataTransfer?.files);
  });
}
