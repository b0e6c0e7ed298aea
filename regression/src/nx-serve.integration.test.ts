import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { environmentWith } from '@signalbox/config/process-environment';
import { waitFor } from '@signalbox/testkit/wait';
import { expect, test } from 'vitest';

const root = join(import.meta.dirname, '../..');

test('SIGTERM to `npx nx serve` reaches the service, which drains', async () => {
  const child = spawn('npx', ['nx', 'serve', 'outbox-sync'], {
    cwd: root,
    env: environmentWith({
      ...{ NX_DAEMON: 'false', NX_TUI: 'false', PORT: '0', LOG_FORMAT: 'json', TRACING_ENABLED: 'false' },
      // Nothing is there: a service starts all the same.
      KAFKA_BOOTSTRAP_SERVERS: '127.0.0.1:9',
      DATABASE_URL: 'postgres://nobody:x@127.0.0.1:9/none',
    }),
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let out = '';
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk) => {
      out += String(chunk);
    });
  const servicePid = () => Number(/"event":"service.starting".*?"pid":(\d+)/.exec(out)?.[1]);
  const says = (event: string) =>
    waitFor(
      () => out,
      (text) => text.includes(`"event":"${event}"`),
      { timeoutMs: 25_000, label: event },
    );
  try {
    await says('service.started');
    expect(servicePid()).toBeGreaterThan(0);
    child.kill('SIGTERM');
    expect(await says('service.stopped')).toContain('"reason":"SIGTERM"');
    await waitFor(
      () => isAlive(servicePid()),
      (alive) => !alive,
      { label: 'the end of the service' },
    );
    await waitFor(
      () => child.exitCode ?? child.signalCode,
      (ended) => ended !== null,
      { label: 'the end of npx' },
    );
  } finally {
    child.kill('SIGKILL');
    if (isAlive(servicePid())) process.kill(servicePid(), 'SIGKILL');
  }
}, 60_000);

function isAlive(pid: number): boolean {
  try {
    return pid > 0 && process.kill(pid, 0);
  } catch {
    return false;
  }
}
