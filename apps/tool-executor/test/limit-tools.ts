import { spawn } from 'node:child_process';
import { appendFileSync, readFileSync, writeSync } from 'node:fs';
import { echo } from '../src/tools/echo.ts';
import { type Tool, ToolError } from '../src/tools/tool.ts';

// Tools that reach each limit. They are here and not in src/: nothing of production can name this module.

// A second of CPU may take many on a machine that does other things: no wall of theirs comes before another limit.
function tool(name: string, run: Tool['run'], idempotent = true): Tool {
  return { name, description: name, parameters: { type: 'object' }, idempotent, timeoutMs: 120_000, run };
}

const never = () => new Promise<string>(() => setInterval(() => undefined, 1_000));

export const tools: readonly Tool[] = [
  echo,
  tool('spin', () => {
    for (;;) {
      // uses CPU until it is stopped
    }
  }),
  tool('spin_on', () => {
    process.on('SIGXCPU', () => undefined);
    for (;;) {
      // uses CPU and ignores the soft limit
    }
  }),
  tool('echo_once', ({ text }) => String(text), false),
  tool('sleep', never),
  tool('sleep_once', never, false),
  // Says into a file who ran and under which key, and ends only in a second try.
  tool('note', ({ file, tries }, { idempotencyKey }) => {
    appendFileSync(String(file), `${process.pid} ${idempotencyKey}\n`);
    const written = readFileSync(String(file), 'utf8').trim().split('\n').length;
    return written < Number(tries) ? never() : 'noted';
  }),
  tool('heap', () => {
    const kept: object[] = [];
    for (;;) {
      kept.push(Array.from({ length: 1_000 }, (_, index) => ({ index })));
    }
  }),
  tool('buffers', async () => {
    const kept: Buffer[] = [];
    for (;;) {
      kept.push(Buffer.alloc(4 * 1_048_576, kept.length + 1));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }),
  tool('flood', ({ text }) => String(text ?? 'é').repeat(5_000_000)),
  tool('flood_stdout', () => {
    for (;;) {
      writeSync(1, 'flood '.repeat(1_000));
    }
  }),
  tool('die', () => {
    process.kill(process.pid, 'SIGKILL');
    return never();
  }),
  tool('babble', () => {
    writeSync(3, 'this is not the protocol, and it is longer than a header\n');
    return never();
  }),
  tool('throw', () => {
    throw new Error('unexpected');
  }),
  tool('refuse', () => {
    throw new ToolError('not today');
  }),
  tool('progress', (_, { progress }) => {
    progress('half');
    return 'whole';
  }),
  tool('look_around', () =>
    JSON.stringify({ env: process.env, cwd: process.cwd(), pid: process.pid, argv: process.argv.length }),
  ),
  tool('leave_behind', async () => {
    const left = spawn('sleep', ['60'], { stdio: 'ignore' });
    return String(left.pid);
  }),
];
