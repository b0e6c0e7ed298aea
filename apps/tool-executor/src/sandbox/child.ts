import { readSync, writeSync } from 'node:fs';
import { flushCompileCache } from 'node:module';
import { ToolError } from '../tools/tool.ts';
import { type FrameType, frame, readToolsModule, type SandboxCall } from './child-protocol.ts';

// The process that runs one tool call and then ends. It is started before there is a call, waits for it in a blocking
// read (no timers, no CPU), and answers in frames on descriptor 3. Its parent kills it when the call is over or over a
// limit; when the parent is gone, its input ends, and a call under way is noticed by the parent's id.

const requestFd = 0;
const frameFd = 3;

const tools = await readToolsModule(process.argv[3] ?? '');
flushCompileCache(); // the first child leaves the stripped sources for those after it: 31 instead of 76 ms
send('ready');
const line = readLine();
if (line !== undefined) {
  await serve(JSON.parse(line));
}

async function serve({
  tool: name,
  arguments: args,
  idempotency_key: idempotencyKey,
}: SandboxCall): Promise<void> {
  const parent = process.ppid;
  setInterval(() => {
    if (process.ppid !== parent) {
      process.kill(process.pid, 'SIGKILL');
    }
  }, 500).unref();
  const tool = tools.find((one) => one.name === name);
  if (tool === undefined) {
    send('failed', `this release has no tool ${name}`);
    return;
  }
  try {
    send('done', await tool.run(args, { idempotencyKey, progress: (text) => send('progress', text) }));
  } catch (error) {
    send('failed', error instanceof ToolError ? error.message : `${error}`);
  }
}

function send(type: FrameType, text = ''): void {
  const bytes = frame(type, text);
  for (let sent = 0; sent < bytes.length; ) {
    sent += writeSync(frameFd, bytes, sent);
  }
}

/** The request is one line; undefined when the parent ended instead of asking. */
function readLine(): string | undefined {
  const chunks: Buffer[] = [];
  for (;;) {
    const chunk = Buffer.alloc(64 * 1024);
    const read = readSync(requestFd, chunk);
    if (read === 0) {
      return undefined;
    }
    chunks.push(chunk.subarray(0, read));
    if (chunk[read - 1] === 0x0a) {
      return Buffer.concat(chunks).toString('utf8');
    }
  }
}
