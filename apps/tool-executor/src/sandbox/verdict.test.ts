import { expect, test } from 'vitest';
import { createFrameReader, frame } from './child-protocol.ts';
import { parsePs, readUsage } from './process-usage.ts';
import { type Ending, judgeEnding } from './verdict.ts';

const limits = { wallMs: 100, cpuSeconds: 2, memoryMb: 64, outputBytes: 1_000 };
const ending: Ending = {
  killed: undefined,
  code: null,
  signal: null,
  errorText: '',
  cpuSeconds: 0,
  output: '',
};

test.each<[Partial<Ending>, string]>([
  [{ killed: 'wall_limit', signal: 'SIGKILL' }, 'wall_limit'],
  [{ killed: 'output_limit', signal: 'SIGKILL', output: 'x' }, 'output_limit'],
  [{ killed: 'memory_limit', signal: 'SIGKILL' }, 'memory_limit'],
  [{ signal: 'SIGABRT', errorText: 'FATAL ERROR: … JavaScript heap out of memory' }, 'memory_limit'],
  [{ code: 134, errorText: 'JavaScript heap out of memory' }, 'memory_limit'],
  [{ signal: 'SIGXCPU' }, 'cpu_limit'],
  [{ signal: 'SIGKILL', cpuSeconds: 2.9 }, 'cpu_limit'],
  [{ signal: 'SIGKILL', cpuSeconds: 0.3 }, 'error'],
  [{ signal: 'SIGSEGV' }, 'error'],
  [{ code: 1 }, 'error'],
  [{ killed: 'protocol', signal: 'SIGKILL', cpuSeconds: 5 }, 'error'],
])('%j is %s', (changes, outcome) => {
  expect(judgeEnding({ ...ending, ...changes }, limits).outcome).toBe(outcome);
});

test('frames come whole, however the bytes are cut', () => {
  const bytes = Buffer.concat([frame('ready', ''), frame('progress', 'hälf'), frame('done', 'whole')]);
  for (let size = 1; size <= bytes.length; size += 1) {
    const heard: string[] = [];
    const reader = createFrameReader((type, payload) => heard.push(`${type}:${payload.toString('utf8')}`));
    for (let at = 0; at < bytes.length; at += size) {
      reader.take(bytes.subarray(at, at + size));
    }
    expect(heard).toEqual(['ready:', 'progress:hälf', 'done:whole']);
  }
});

test('a frame announces its length, so what is too much is seen before it came', () => {
  const reader = createFrameReader(() => undefined);
  reader.take(Buffer.from('done 1000000\nabc'));
  expect(reader.partial()).toMatchObject({ type: 'done', announcedBytes: 1_000_000 });
});

test.each(['hello there\n', 'done -1\n', 'done 1 2\n', 'x'.repeat(32)])('%j is no frame', (text) => {
  expect(() => createFrameReader(() => undefined).take(Buffer.from(text))).toThrow('protocol');
});

test('usage is read from ps as from /proc', async () => {
  expect(parsePs('  2048 0:01.50\n')).toEqual({ rssBytes: 2_097_152, cpuSeconds: 1.5 });
  expect(parsePs(' 10 1-02:03:04\n')).toEqual({ rssBytes: 10_240, cpuSeconds: 93_784 });
  expect(parsePs('')).toBeUndefined();
  const own = await readUsage(process.pid);
  expect(own?.rssBytes).toBeGreaterThan(10_000_000);
  expect(own?.cpuSeconds).toBeGreaterThan(0);
  expect(await readUsage(2 ** 30)).toBeUndefined();
});
