import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { environmentWith } from '@signalbox/config/process-environment';
import { waitFor } from '@signalbox/testkit/wait';
import { afterEach, beforeEach, expect, it } from 'vitest';

/** The command as a process of its own, with the signals that a terminal sends it. */

const program = join(import.meta.dirname, '../bin/signalbox.js');
let server: ReturnType<typeof createServer>;
let url: string;
let stream: ServerResponse | undefined;
let cancels: number;

const tell = (name: string, data: object) =>
  stream?.write(
    `id: 1-1\nevent: ${name}\ndata: ${JSON.stringify({ turn_id: 't', attempt: 1, ...data })}\n\n`,
  );

beforeEach(async () => {
  cancels = 0;
  server = createServer((request, response) => {
    request.resume();
    if (request.method !== 'POST') {
      stream = response.writeHead(200, { 'content-type': 'text/event-stream' });
      tell('assistant.delta', { at: 0, text: 'Hel' });
      return;
    }
    if (request.url === '/v1/session/action') cancels += 1;
    response
      .writeHead(202, { 'content-type': 'application/json' })
      .end(JSON.stringify({ session_id: 's', event_id: 'e', turn_id: 't' }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  url = `http://127.0.0.1:${typeof address === 'object' ? address?.port : 0}`;
});
afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await once(server, 'close');
});

function chat() {
  const child = spawn(process.execPath, [program, 'chat', '--once', 'hi', '--gateway', url, '--key', 'k'], {
    env: environmentWith({}),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const said = { out: '', err: '' };
  child.stdout.on('data', (piece) => {
    said.out += String(piece);
  });
  child.stderr.on('data', (piece) => {
    said.err += String(piece);
  });
  const ended = once(child, 'close').then(([code]: unknown[]) => code);
  const until = (told: () => boolean, label: string) =>
    waitFor(told, (yes) => yes, { label, timeoutMs: 20_000 });
  return { child, said, ended, until };
}

it('one Ctrl-C cancels the turn, whose end it waits for', async () => {
  const { child, said, ended, until } = chat();
  await until(() => said.out === 'Hel', 'the answer to begin');
  child.kill('SIGINT');
  await until(() => cancels === 1, 'the cancel');
  tell('turn.cancelled', { cause: 'requested', text: 'Hel', length: 3 });
  const toldAt = performance.now();
  expect(await ended).toBe(1);
  // What it waits for on the stream is given up with the stream.
  expect(performance.now() - toldAt).toBeLessThan(10_000);
  expect(said.out).toBe('Hel\n[cancelled]\n');
});

it('the second Ctrl-C leaves', async () => {
  const { child, said, ended, until } = chat();
  await until(() => said.out === 'Hel', 'the answer to begin');
  child.kill('SIGINT');
  await until(() => said.err.includes('Ctrl-C again leaves'), 'the first to be taken');
  child.kill('SIGINT');
  expect(await ended).toBe(1);
  expect(said.err).toContain('ABORTED: left by Ctrl-C');
});
