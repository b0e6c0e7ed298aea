import { createServer } from 'node:net';
import { describe, expect, test } from 'vitest';
import { answers, pickPort, releasePort } from './ports.ts';

async function listening(port: number, host: string): Promise<() => Promise<void>> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(port, host, resolve);
  });
  return () => new Promise((resolve) => server.close(() => resolve()));
}

describe('picking a port', () => {
  test.each(['127.0.0.1', '0.0.0.0'])('takes the next one when %s has it', async (host) => {
    const port = await pickPort(0);
    releasePort(port);
    const close = await listening(port, host);
    const next = await pickPort(port);
    expect(next).toBeGreaterThan(port);
    releasePort(next);
    await close();
    expect(await pickPort(port)).toBe(port);
    releasePort(port);
  });

  test('never gives two askers the same one', async () => {
    const first = await pickPort(0);
    releasePort(first);
    const picked = await Promise.all(Array.from({ length: 8 }, () => pickPort(first)));
    expect(new Set(picked).size).toBe(8);
    picked.forEach(releasePort);
  });

  test('a free one lies below the range of outgoing connections', async () => {
    const port = await pickPort(0);
    releasePort(port);
    expect(port).toBeLessThan(32_768);
    expect(await answers(port)).toBe(false);
  });

  test('says so when there is none', async () => {
    await expect(pickPort(65_536)).rejects.toThrow('no free port');
  });
});
