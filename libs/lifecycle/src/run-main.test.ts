import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import type { Behaviour } from '../test/stopping-service.ts';

const fixture = join(import.meta.dirname, '../test/stopping-service.ts');
const children: ChildProcess[] = [];

afterEach(() => {
  for (const child of children.splice(0)) if (child.exitCode === null) child.kill('SIGKILL');
});

/** A real process with real signals; `says` waits for a text on its stdout. */
function start(behaviour: Behaviour) {
  const child = spawn(process.execPath, [fixture, behaviour], { stdio: ['ignore', 'pipe', 'pipe'] });
  children.push(child);
  let out = '';
  let err = '';
  const waiting: (() => void)[] = [];
  child.stdout.on('data', (chunk) => {
    out += chunk;
    for (const wake of waiting.splice(0)) wake();
  });
  child.stderr.on('data', (chunk) => {
    err += chunk;
  });
  const exit = new Promise<{ code: number | null; out: string; err: string; events: string[] }>((resolve) => {
    child.on('close', (code) => {
      const records = out.split('\n').filter((line) => line.startsWith('{'));
      resolve({ code, out, err, events: records.map((line) => JSON.parse(line).event) });
    });
  });
  const says = async (text: string) => {
    while (!out.includes(text)) await new Promise<void>((resolve) => waiting.push(resolve));
    return out;
  };
  return { child, exit, says };
}

describe('a process', () => {
  test.each(['SIGTERM', 'SIGINT'] as const)('drains on %s and exits 0', async (signal) => {
    const { child, exit, says } = start('drains');
    await says('serving');
    child.kill(signal);
    const { code, events, out } = await exit;
    expect(code).toBe(0);
    expect(events).toEqual(['service.stopping', 'shutdown.step', 'service.stopped']);
    expect(JSON.parse(out.split('\n')[1] ?? '')).toMatchObject({
      level: 'INFO',
      event: 'service.stopping',
      reason: signal,
      service: 'test',
    });
  });

  test('goes on when the reader of its output goes away, and still drains', async () => {
    const { child, says } = start('writes to a reader that went away');
    await says('more');
    const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
    const unread = new Promise((resolve) => child.stderr?.once('data', resolve));
    child.stdout?.destroy();
    await unread;
    // Without the guard the first failed write began a loop of uncaught exceptions that no signal could end.
    child.kill('SIGTERM');
    expect(await exited).toBe(0);
  });

  test('is forced at once by a second signal, and exits 75', async () => {
    const { child, exit, says } = start('hangs');
    await says('serving');
    child.kill('SIGTERM');
    await says('service.stopping');
    const at = performance.now();
    child.kill('SIGTERM');
    const { code, events, out } = await exit;
    expect(code).toBe(75);
    expect(performance.now() - at).toBeLessThan(2_000);
    expect(events).toEqual(['service.stopping', 'service.forced']);
    expect(out).toContain('"overran":["turns"]');
  });

  test('exits 75 when its bound passes, names the step, and has run the others', async () => {
    const { child, exit, says } = start('hangs, bounded');
    await says('serving');
    child.kill('SIGTERM');
    const { code, events, out } = await exit;
    expect(code).toBe(75);
    expect(events).toEqual(['service.stopping', 'shutdown.step', 'shutdown.step', 'service.stopped']);
    expect(out).toMatch(/"step":"turns",.*"outcome":"forced"/);
    expect(out).toMatch(/"step":"pool",.*"outcome":"done"/);
    expect(out).toContain('"overran":["turns"]');
  });

  test('stops while it is still starting', async () => {
    const { child, exit, says } = start('starts for ever');
    await says('serving');
    child.kill('SIGTERM');
    expect((await exit).code).toBe(0);
  });

  test('exits 64 on bad configuration, with every mistake for people and for machines', async () => {
    const { code, out, err } = await start('bad configuration').exit;
    expect(code).toBe(64);
    expect(err).toContain('PORT: must be 0 to 65535');
    expect(err).toContain('DATABASE_URL: is required');
    const record = JSON.parse(out.split('\n')[0] ?? '');
    expect(record).toMatchObject({
      event: 'config.invalid',
      level: 'CRITICAL',
      error_code: 'CONFIG_INVALID',
    });
    expect(record.errors).toHaveLength(2);
  });

  test.each<[Behaviour, string]>([
    ['fails to start', 'service.start_failed'],
    ['rejects somewhere', 'process.unhandled_rejection'],
    ['throws somewhere', 'process.uncaught_exception'],
    ['loop ends', 'service.loop_ended'],
  ])('that %s logs it, drains, and exits 70', async (behaviour, event) => {
    const { code, events } = await start(behaviour).exit;
    expect(code).toBe(70);
    expect(events.slice(0, 3)).toEqual([event, 'service.stopping', 'shutdown.step']);
    expect(events.at(-1)).toBe('service.stopped');
  });

  test('still serves during the drain delay', async () => {
    const { child, exit, says } = start('serves while draining');
    const port = /port (\d+)/.exec(await says('serving'))?.[1];
    child.kill('SIGTERM');
    await says('service.stopping');
    const answer = await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: 'close' } });
    expect(await answer.text()).toBe('served');
    expect((await exit).code).toBe(0);
  });
});
