import type { Tool } from '../tools/tool.ts';

/** What a child is asked, as one line of JSON on its input. */
export interface SandboxCall {
  readonly tool: string;
  readonly arguments: Readonly<Record<string, unknown>>;
  /** The call's, the same in every try of it: what a tool gives to where its effect is, so that it has it once. */
  readonly idempotency_key: string;
}

/** A child answers `ready`, then any number of `progress`, then `done` or `failed`. */
export type FrameType = 'ready' | 'progress' | 'done' | 'failed';

/** A frame: `type bytes\n`, then as many bytes of UTF-8. The length first, so that too much is seen before it came. */
export function frame(type: FrameType, text: string): Buffer {
  const payload = Buffer.from(text, 'utf8');
  return Buffer.concat([Buffer.from(`${type} ${payload.length}\n`), payload]);
}

export interface FrameReader {
  /** Takes bytes as they come; calls back for each whole frame. Throws when it is no frame. */
  take(chunk: Buffer): void;
  /** The frame that is only partly there. */
  partial(): { type: FrameType; announcedBytes: number; payload: Buffer } | undefined;
}

const maxHeaderBytes = 32;
const headerForm = /^(ready|progress|done|failed) (\d{1,15})$/;

export function createFrameReader(onFrame: (type: FrameType, payload: Buffer) => void): FrameReader {
  let held: Buffer = Buffer.alloc(0);
  let open: { type: FrameType; bytes: number } | undefined;
  return {
    take(chunk) {
      held = held.length === 0 ? chunk : Buffer.concat([held, chunk]);
      for (;;) {
        open ??= header();
        if (open === undefined || held.length < open.bytes) {
          return;
        }
        const { type, bytes } = open;
        const payload = held.subarray(0, bytes);
        held = held.subarray(bytes);
        open = undefined;
        onFrame(type, payload);
      }
    },
    partial: () =>
      open === undefined ? undefined : { type: open.type, announcedBytes: open.bytes, payload: held },
  };

  function header(): { type: FrameType; bytes: number } | undefined {
    const end = held.subarray(0, maxHeaderBytes).indexOf(0x0a);
    if (end < 0) {
      if (held.length >= maxHeaderBytes) {
        throw new Error('the child does not speak the protocol');
      }
      return undefined;
    }
    const [, type, bytes] = headerForm.exec(held.subarray(0, end).toString('latin1')) ?? [];
    if (type === undefined || !isFrameType(type)) {
      throw new Error('the child does not speak the protocol');
    }
    held = held.subarray(end + 1);
    return { type, bytes: Number(bytes) };
  }
}

function isFrameType(type: string): type is FrameType {
  return type === 'ready' || type === 'progress' || type === 'done' || type === 'failed';
}

/** Loads the tools of a module that exports `tools`. */
export async function readToolsModule(url: string): Promise<readonly Tool[]> {
  const module: { tools?: readonly Tool[] } = await import(url);
  if (!Array.isArray(module.tools)) {
    throw new Error(`${url} exports no tools`);
  }
  return module.tools;
}
