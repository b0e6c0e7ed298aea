import { connect } from 'node:net';
import { openDatabase } from '@signalbox/postgres/database';
import { silentLog, silentMetrics } from '@signalbox/telemetry/silent';
import { expect, test } from 'vitest';
import { startTemporaryParts } from './temporary-parts.ts';

/** Redis' inline protocol: one line in, one reply back. */
function redisSays(url: string, line: string): Promise<string> {
  const { port } = new URL(url);
  return new Promise((resolve, reject) => {
    const socket = connect({ port: Number(port), host: '127.0.0.1' }, () => socket.write(`${line}\r\n`));
    socket.once('error', reject);
    socket.once('data', (data) => {
      socket.destroy();
      resolve(data.toString());
    });
  });
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const database = openDatabase({
    ...{ url, poolSize: 1, maxOverflow: 0, poolTimeoutMs: 5_000, poolRecycleMs: 60_000 },
    ...{ applicationName: 'test', log: silentLog, metrics: silentMetrics },
  });
  try {
    return await database.query(sql);
  } finally {
    await database.close();
  }
}

test('a durable part that is killed starts again on its port, with everything it had acknowledged', async () => {
  const parts = await startTemporaryParts({ only: ['postgres', 'redis'], durable: true });
  try {
    const { postgres, redis } = parts.addresses;
    if (postgres === undefined || redis === undefined) throw new Error('a part is missing');
    const { ownerUrl, pid } = postgres;
    const { url } = redis;
    await query(ownerUrl, 'create table kept as select 7 n');
    expect(await redisSays(url, 'SET kept 7')).toBe('+OK\r\n');

    await Promise.all([parts.kill('postgres'), parts.kill('redis')]);
    await expect(redisSays(url, 'GET kept')).rejects.toThrow('ECONNREFUSED');
    await Promise.all([parts.startAgain('postgres'), parts.startAgain('redis')]);

    expect(parts.addresses.postgres?.ownerUrl).toBe(ownerUrl);
    expect(parts.addresses.postgres?.pid).not.toBe(pid);
    expect(await query(ownerUrl, 'select n from kept')).toEqual([{ n: 7 }]);
    expect(await redisSays(url, 'GET kept')).toBe('$1\r\n7\r\n');
  } finally {
    await parts.close();
  }
});
