import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { diskProbe } from './disk-probe.ts';

test('a folder with space is ok, also one that is not there yet', async () => {
  const probe = diskProbe({ folders: [tmpdir(), join(tmpdir(), 'not', 'there', 'yet')], minFreeMb: 0 });
  expect(await probe()).toMatchObject({ status: 'ok', free_mb: expect.any(Number) });
});

test('a folder with less than the minimum is degraded, never down', async () => {
  const probe = diskProbe({ folders: [tmpdir()], minFreeMb: 1e12 });
  expect(await probe()).toMatchObject({ status: 'degraded', reason: 'low_space' });
});
