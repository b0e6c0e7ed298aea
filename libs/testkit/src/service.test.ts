import { expect, test } from 'vitest';
import { launchService, metricIn, spawnService } from './service.ts';
import { openSse, SseRefused } from './sse.ts';
import { sleep, waitFor } from './wait.ts';

const entry = new URL('../test/sample-service.ts', import.meta.url);
const alive = (pid: number) => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

test('a service is started on a free port, ready, read and stopped', async () => {
  const service = await spawnService('sample', { EXTRA: 'yes' }, { entry });
  await service.ready();
  expect((await service.log('service.started')).extra).toBe('yes');
  expect(await service.metric('requests_total', { route: '/a' })).toBeGreaterThan(2);
  await waitFor(
    () => service.noise,
    (lines) => lines.includes('not JSON'),
  );
  expect(await service.stop()).toMatchObject({ code: 0, signal: null });
  expect(service.logs.at(-1)?.event).toBe('service.stopped');
});

test('a service that refuses its start is told with its exit code and what it said', async () => {
  await expect(spawnService('sample', {}, { entry, args: ['--refuse'] })).rejects.toThrow('no configuration');
  const launched = launchService('sample', {}, { entry, args: ['--refuse'] });
  expect(await launched.exited).toEqual({ code: 64, signal: null });
});

test('a service is frozen, goes on, and is gone with its scope', async () => {
  let pid = 0;
  {
    await using service = await spawnService('sample', {}, { entry });
    pid = service.pid;
    service.kill('SIGSTOP');
    await expect(fetch(service.url, { signal: AbortSignal.timeout(200) })).rejects.toThrow();
    service.kill('SIGCONT');
    expect((await fetch(service.url)).status).toBe(200);
    service.kill('SIGSTOP');
  }
  expect(alive(pid)).toBe(false);
});

test('a service whose starter was killed goes too', async () => {
  const starter = launchService(
    'starter',
    {},
    { entry: new URL('../test/start-sample.ts', import.meta.url) },
  );
  const { pid } = await starter.log('sample.started');
  expect(alive(Number(pid))).toBe(true);
  starter.kill('SIGKILL');
  await starter.exited;
  await waitFor(
    () => alive(Number(pid)),
    (there) => !there,
    { label: 'the orphan gone' },
  );
});

test('an event stream is read, and resumed after the last id', async () => {
  await using service = await spawnService('sample', {}, { entry });
  const stream = await openSse(`${service.url}/events`);
  const second = await stream.event(({ id }) => id === '2');
  expect(second).toMatchObject({ event: 'number', data: { id: 2 } });
  expect(stream.retryMs()).toBe(250);
  expect(stream.comments).toEqual(['hello']);
  await stream.close();
  expect(await stream.ended).toBe('client');
  const resumed = await openSse(`${service.url}/events`, { lastEventId: '2' });
  expect(await resumed.ended).toBe('server');
  expect(resumed.events.map(({ id }) => id)).toEqual(['3']);
  await expect(openSse(`${service.url}/elsewhere`)).rejects.toThrow(SseRefused);
});

test('waiting ends with the level, or tells the label and the last value', async () => {
  let value = 0;
  const timer = setInterval(() => {
    value += 1;
  }, 5);
  expect(
    await waitFor(
      () => value,
      (now) => now >= 3,
    ),
  ).toBeGreaterThanOrEqual(3);
  clearInterval(timer);
  const never = waitFor(
    () => 'low',
    (level) => level === 'high',
    { timeoutMs: 50, label: 'the tide' },
  );
  await expect(never).rejects.toThrow('the tide: not reached in 50 ms, last value "low"');
  const hanging = waitFor(
    () => sleep(10_000),
    () => true,
    { timeoutMs: 50 },
  );
  await expect(hanging).rejects.toThrow('did not return');
});

test('a series is found by name and labels', () => {
  const text = 'a_total{b="1",service="x"} 3\na_total{b="2",service="x"} 4\nplain 5e-3\n';
  expect(metricIn(text, 'a_total', { b: '2' })).toBe(4);
  expect(metricIn(text, 'plain')).toBe(0.005);
  expect(metricIn(text, 'a')).toBeUndefined();
});
