import { spawn } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { endProcesses, findLeftovers } from './leftovers.ts';
import { findProcess, listProcesses } from './process-list.ts';
import { noProgress } from './progress.ts';
import { waitUntil } from './wait-until.ts';

const dataDir = '/home/me/signalbox/.data';
const found = (command: string, folder?: string) =>
  findLeftovers(dataDir, [{ pid: 7, command, folder }]).map(({ name }) => name);

describe('leftovers of a killed stack', () => {
  test.each([
    [`java -Xmx512m -cp ${dataDir}/jars/kafka/* kafka.Kafka ${dataDir}/kafka/server.properties`, 'kafka'],
    [`/app/native/bin/postgres -D ${dataDir}/postgres -p 5432`, 'postgres'],
    [`java -Dsignalbox.folder=${dataDir}/zipkin -jar /x/zipkin-server-3.6.1-exec.jar`, 'zipkin'],
  ])('%s', (command, name) => {
    expect(found(command)).toEqual([name]);
  });

  test('Redis is known by its folder', () => {
    expect(found('redis-server 127.0.0.1:6379', `${dataDir}/redis`)).toEqual(['redis']);
    expect(found('redis-server 127.0.0.1:6379', '/var/lib/redis')).toEqual([]);
  });

  test("Postgres' sessions too", () => {
    expect(found('postgres: signalbox signalbox 127.0.0.1(4711) UPDATE', `${dataDir}/postgres`)).toEqual([
      'postgres',
    ]);
    expect(found('postgres: checkpointer ', '/var/lib/postgresql/data')).toEqual([]);
  });

  test.each([
    `tail -f ${dataDir}/logs/kafka.log`,
    `vim ${dataDir}/kafka/server.properties`,
    '/usr/lib/postgresql/18/bin/postgres -D /var/lib/postgresql',
    `java kafka.Kafka ${dataDir}-of-another/kafka/server.properties`,
  ])('leaves alone: %s', (command) => {
    expect(found(command)).toEqual([]);
  });

  test('ends a process, with -9 when it does not listen', async () => {
    const child = spawn('sh', ['-c', "trap '' TERM; echo up; while :; do sleep 0.05; done"], {
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const pid = child.pid ?? 0;
    const command = findProcess(pid)?.command ?? '';
    expect(listProcesses().some((each) => each.pid === pid)).toBe(true);
    await endProcesses([{ pid, name: 'x', command, signal: 'SIGTERM' }], noProgress, 200);
    await waitUntil(() => child.signalCode === 'SIGKILL', { label: 'end', timeoutMs: 2_000 });
  });
});
