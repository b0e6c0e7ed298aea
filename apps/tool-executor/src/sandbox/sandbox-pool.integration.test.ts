import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { waitFor } from '@signalbox/testkit/wait';
import { afterAll, describe, expect, test } from 'vitest';
import { SandboxPool } from './sandbox-pool.ts';
import type { CallLimits } from './verdict.ts';

const toolsModule = new URL('../../test/limit-tools.ts', import.meta.url).href;
const limits: CallLimits = { wallMs: 10_000, cpuSeconds: 1, memoryMb: 64, outputBytes: 10_000 };
const pool = new SandboxPool({ size: 4, warm: 2, toolsModule, cpuSeconds: 1, memoryMb: 64 });
afterAll(() => pool.close());

const asked = (tool: string, args: object = {}) => ({ tool, arguments: { ...args }, idempotency_key: 'k' });
const run = (tool: string, args: object = {}, changed: Partial<CallLimits> = {}) =>
  pool.run(asked(tool, args), { ...limits, ...changed });

const alive = (pid: number) => {
  try {
    // A zombie still has its id; its state tells.
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
  } catch {
    return false;
  }
};

test('a call runs in a child of its own, with nothing of ours in it', async () => {
  const first = await run('look_around');
  const second = await run('look_around');
  const [one, two] = [first, second].map(({ output }) => JSON.parse(output));
  expect(one.env).toEqual({});
  expect(one.pid).not.toBe(two.pid);
  expect(one.cwd).not.toBe(two.cwd);
  expect(one.cwd).not.toBe(process.cwd());
  await waitFor(
    () => existsSync(one.cwd),
    (there) => !there,
    { label: "the first call's folder gone" },
  );
});

test.skipIf(process.platform !== 'linux')(
  'a child shares no socket and no pipe with its parent',
  async () => {
    const [server, client] = await connectedSockets();
    const call = run('sleep', {}, { wallMs: 300 });
    const ours = openSockets('self');
    const children = readdirSync('/proc').filter((pid) => parentOf(pid) === process.pid);
    expect(ours.length).toBeGreaterThan(1);
    expect(children.length).toBeGreaterThan(0);
    for (const pid of children) {
      expect(openSockets(pid).filter((name) => ours.includes(name))).toEqual([]);
    }
    await call;
    client.destroy();
    server.close();
  },
);

async function connectedSockets(): Promise<[Server, Socket]> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const client = connect(typeof address === 'object' && address !== null ? address.port : 0);
  await once(client, 'connect');
  return [server, client];
}

function openSockets(pid: string): string[] {
  return readdirSync(`/proc/${pid}/fd`)
    .flatMap((fd) => {
      try {
        return [readlinkSync(`/proc/${pid}/fd/${fd}`)];
      } catch {
        return []; // closed meanwhile
      }
    })
    .filter((name) => /^(socket|pipe):/.test(name));
}

function parentOf(pid: string): number | undefined {
  try {
    return Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
  } catch {
    return undefined;
  }
}

// A second of CPU may take many on a machine that does other things.
const noWall = { wallMs: 120_000 };

describe('every limit is applied and named', () => {
  test('CPU time', async () => {
    expect(await run('spin', {}, noWall)).toMatchObject({
      outcome: 'cpu_limit',
      message: 'used more than 1 s of CPU',
    });
  }, 60_000);

  test('CPU time of a child that handles SIGXCPU', async () => {
    expect(await run('spin_on', {}, noWall)).toMatchObject({ outcome: 'cpu_limit' });
  }, 60_000);

  test('wall time', async () => {
    const began = performance.now();
    const verdict = await run('sleep', {}, { wallMs: 200 });
    expect(verdict).toMatchObject({ outcome: 'wall_limit', message: 'still running after 200 ms' });
    expect(performance.now() - began).toBeLessThan(1_500);
  });

  test('heap', async () => {
    expect(await run('heap', {}, { ...noWall, cpuSeconds: 5 })).toMatchObject({ outcome: 'memory_limit' });
  });

  test('memory outside of the heap', async () => {
    expect(await run('buffers')).toMatchObject({ outcome: 'memory_limit', message: 'used more than 64 MB' });
  });

  test('output, cut between characters', async () => {
    const verdict = await run('flood');
    expect(verdict).toMatchObject({ outcome: 'output_limit', truncated: true });
    expect(verdict.output).toBe('é'.repeat(5_000));
    const uneven = await run('flood', {}, { outputBytes: 10_001 });
    expect(uneven.output).toBe('é'.repeat(5_000));
  });

  test('output on stdout', async () => {
    const verdict = await run('flood_stdout');
    expect(verdict).toMatchObject({ outcome: 'output_limit', truncated: true });
    expect(verdict.output.startsWith('flood flood')).toBe(true);
    expect(Buffer.byteLength(verdict.output)).toBeLessThanOrEqual(10_000);
  });
});

describe('what else may happen to a child', () => {
  test('killed by somebody', async () => {
    expect(await run('die')).toMatchObject({ outcome: 'error', message: expect.stringContaining('SIGKILL') });
  });

  test('a wrong answer', async () => {
    expect(await run('babble')).toMatchObject({
      outcome: 'error',
      message: expect.stringContaining('no answer'),
    });
  });

  test('an error, expected or not', async () => {
    expect(await run('refuse')).toMatchObject({ outcome: 'error', message: 'not today' });
    expect(await run('throw')).toMatchObject({ outcome: 'error', message: 'Error: unexpected' });
    expect(await run('missing')).toMatchObject({
      outcome: 'error',
      message: 'this release has no tool missing',
    });
  });

  test('progress on the way', async () => {
    const heard: string[] = [];
    const verdict = await pool.run(asked('progress'), limits, {
      onProgress: (text) => heard.push(text),
    });
    expect(heard).toEqual(['half']);
    expect(verdict.output).toBe('whole');
  });

  test('a process left behind goes with its group', async () => {
    const { output } = await run('leave_behind');
    await waitFor(
      () => alive(Number(output)),
      (there) => !there,
      { label: 'the grandchild gone' },
    );
  });

  test('an abort kills it', async () => {
    const abort = new AbortController();
    const call = pool.run(asked('sleep'), limits, { signal: abort.signal });
    setTimeout(() => abort.abort(new Error('stop')), 50);
    await expect(call).rejects.toThrow('stop');
  });
});

test('others are served while one is over its limit', async () => {
  const abort = new AbortController();
  const bad = [
    run('spin', {}, noWall),
    pool.run(asked('sleep'), { ...limits, ...noWall }, { signal: abort.signal }),
  ];
  const good = await Promise.all(
    Array.from({ length: 4 }, (_, index) => run('echo', { text: `call ${index}` })),
  );
  expect(good.map(({ output }) => output)).toEqual(['call 0', 'call 1', 'call 2', 'call 3']);
  // The one that never ends has held up nobody.
  abort.abort(new Error('enough'));
  const [spin, sleep] = await Promise.allSettled(bad);
  expect(spin).toMatchObject({ status: 'fulfilled', value: { outcome: 'cpu_limit' } });
  expect(sleep).toMatchObject({ status: 'rejected' });
}, 60_000);

test('a call to a warm child takes a few milliseconds', async () => {
  const times: number[] = [];
  for (let round = 0; round < 15; round += 1) {
    await waitFor(
      () => pool.stats().warm,
      (warm) => warm === 2,
    );
    const began = performance.now();
    await run('echo', { text: 'x' });
    times.push(performance.now() - began);
  }
  times.sort((a, b) => a - b);
  expect(times[7]).toBeLessThan(20);
});

test('a pool whose children cannot start says so, and is quiet when closed', async () => {
  const failures: unknown[] = [];
  const broken = new SandboxPool({
    size: 1,
    warm: 1,
    toolsModule: 'file:///nowhere/tools.ts',
    cpuSeconds: 1,
    memoryMb: 64,
    onStartFailed: (error) => failures.push(error),
  });
  const call = broken.run(asked('echo'), limits);
  const refused = expect(call).rejects.toThrow('closed');
  await waitFor(
    () => failures.length,
    (count) => count >= 2,
  );
  expect(String(failures[0])).toContain('nowhere/tools.ts');
  expect(broken.stats().stuck).toBe(true);
  await broken.close();
  await refused;
});
