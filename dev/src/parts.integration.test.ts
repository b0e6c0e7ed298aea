import { existsSync, mkdtempSync, rmSync } from 'node:fs';
import { chmod } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { startKeeper } from './keeper.ts';
import { findLeftovers } from './leftovers.ts';
import { jarsFolder, startParts } from './parts.ts';
import { answers } from './ports.ts';
import { listProcesses } from './process-list.ts';
import { noProgress } from './progress.ts';
import { waitUntil } from './wait-until.ts';

const root = join(import.meta.dirname, '..', '..');
let dataDir: string;
beforeEach(async () => {
  dataDir = mkdtempSync(join(tmpdir(), 'parts-'));
  await chmod(dataDir, 0o711);
});
afterEach(() => rmSync(dataDir, { recursive: true, force: true }));

const portOf = (address: string | undefined) =>
  Number(/:(\d+)(?:\/|$)/.exec(address?.replace(/^\w+:\/\//, '') ?? '')?.[1]);

describe('ephemeral parts', () => {
  test('start on free ports, answer, and leave nothing behind', async () => {
    const keeper = startKeeper();
    const parts = await startParts({
      only: ['postgres', 'redis'],
      dataDir,
      jarsDir: jarsFolder(root),
      ephemeral: true,
      keeper,
      progress: noProgress,
    });
    const { postgres, redis, kafka } = parts.addresses;
    expect(kafka).toBeUndefined();
    expect(await answers(portOf(redis?.url))).toBe(true);
    const database = openDatabase({
      url: postgres?.adminUrl ?? '',
      poolSize: 1,
      maxOverflow: 0,
      poolTimeoutMs: 5_000,
      poolRecycleMs: 60_000,
      applicationName: 'test',
      log: silentLog,
      metrics: silentMetrics,
    });
    const rows = await database.query<{ v: string; fsync: string }>(
      "select current_setting('server_version_num') as v, current_setting('fsync') as fsync",
    );
    expect(rows[0]).toMatchObject({ fsync: 'off' });
    expect(Number(rows[0]?.v)).toBeGreaterThanOrEqual(180_000);
    await database.close();
    await parts.stop();
    keeper.close();
    expect(findLeftovers(dataDir, listProcesses())).toEqual([]);
    expect(await answers(portOf(redis?.url))).toBe(false);
  });

  test('the keeper ends them and removes their folder when their owner dies without a word', async () => {
    const keeper = startKeeper(dataDir);
    await startParts({
      only: ['redis'],
      dataDir,
      jarsDir: jarsFolder(root),
      ephemeral: true,
      keeper,
      progress: noProgress,
    });
    expect(findLeftovers(dataDir, listProcesses())).toHaveLength(1);
    // What the end of this process would do to the pipe.
    keeper.breakOff();
    await waitUntil(() => findLeftovers(dataDir, listProcesses()).length === 0 && !existsSync(dataDir), {
      label: 'keeper',
      timeoutMs: 10_000,
    });
  });

  test('a part that cannot start says why, and the others are ended', async () => {
    const keeper = startKeeper();
    await expect(
      startParts({
        only: ['kafka', 'redis'],
        dataDir,
        jarsDir: join(dataDir, 'jars'),
        ephemeral: true,
        keeper,
        progress: noProgress,
        signal: AbortSignal.timeout(300),
      }),
    ).rejects.toThrow();
    keeper.close();
    expect(findLeftovers(dataDir, listProcesses())).toEqual([]);
  });
});
