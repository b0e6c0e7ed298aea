import { spawn, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { isFault } from '@signalbox/faults/fault';
import { afterEach, describe, expect, test } from 'vitest';
import { armFailPoint, failPoints, readOrder } from './fail-point.ts';

const fixture = join(import.meta.dirname, '../test/failing-service.ts');
const ends: (() => void)[] = [];

afterEach(() => {
  armFailPoint(undefined);
  for (const end of ends.splice(0)) end();
});

function start(order: string) {
  const child = spawn(process.execPath, [fixture, order], { stdio: ['ignore', 'pipe', 'inherit'] });
  ends.push(() => child.kill('SIGKILL'));
  let out = '';
  child.stdout.on('data', (chunk) => {
    out += chunk;
  });
  const ended = new Promise<{ code: number | null; signal: string | null; lines: string[] }>((resolve) => {
    child.on('close', (code, signal) => resolve({ code, signal, lines: linesOf(out) }));
  });
  const stopped = async () => {
    while (!out.includes('before 2') || stateOf(child.pid ?? 0) !== 'T')
      await new Promise((resolve) => setTimeout(resolve, 5));
    return linesOf(out);
  };
  return { child, ended, stopped };
}

const linesOf = (out: string) => out.split('\n').filter((line) => line !== '' && !line.startsWith('{'));

/** Running R, sleeping S, stopped T. */
function stateOf(pid: number): string | undefined {
  return spawnSync('ps', ['-o', 'stat=', '-p', String(pid)], { encoding: 'utf8' }).stdout.trim()[0];
}

describe('an armed fail point', () => {
  test('kills the process at the pass it names, and nothing behind it runs', async () => {
    const { signal, lines } = await start('call.done:3').ended;
    expect(signal).toBe('SIGKILL');
    expect(lines).toEqual(['before 1', 'behind 1', 'before 2', 'behind 2', 'before 3']);
  });

  test('stops the process where it stands until it is continued', async () => {
    const { child, ended, stopped } = start('call.done:2:SIGSTOP');
    expect(await stopped()).toEqual(['before 1', 'behind 1', 'before 2']);
    await new Promise((resolve) => setTimeout(resolve, 200)); // what this is about: time passes, nothing runs
    expect(await stopped()).toEqual(['before 1', 'behind 1', 'before 2']);
    child.kill('SIGCONT');
    const { code, lines } = await ended;
    expect(code).toBe(0);
    expect(lines.slice(3, 6)).toEqual(['behind 2', 'before 3', 'behind 3']);
  });

  test('leaves other points alone', async () => {
    const { code, lines } = await start('stream.stored').ended;
    expect(code).toBe(0);
    expect(lines).toContain('behind 5');
  });
});

describe('FAIL_POINT', () => {
  test('is a name, a pass and a signal', () => {
    expect(readOrder('relay.sent')).toEqual({ name: 'relay.sent', pass: 1, signal: 'SIGKILL' });
    expect(readOrder('call.done:12')).toEqual({ name: 'call.done', pass: 12, signal: 'SIGKILL' });
    expect(readOrder('call.done:SIGSTOP')).toEqual({ name: 'call.done', pass: 1, signal: 'SIGSTOP' });
    expect(readOrder('call.done:2:SIGSTOP')).toEqual({ name: 'call.done', pass: 2, signal: 'SIGSTOP' });
  });

  test.each(['call', 'call.done:0', 'call.done:x', 'call.done:1:SIGTERM', 'toString', ''])(
    'refuses %j and lists the names',
    (text) => {
      try {
        armFailPoint(text);
        expect.unreachable();
      } catch (error) {
        if (!isFault(error, 'CONFIG_INVALID')) throw error;
        expect(error.errors?.[0]?.path).toBe('FAIL_POINT');
        for (const name of Object.keys(failPoints)) expect(error.errors?.[0]?.message).toContain(name);
      }
    },
  );
});
