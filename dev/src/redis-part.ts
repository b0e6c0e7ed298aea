import { existsSync } from 'node:fs';
import { mkdir, rename, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { arch, platform } from 'node:process';
import { ensureJars } from './jars.ts';
import type { Part, PartSetting } from './part.ts';
import { PartProblem } from './part-problem.ts';
import { runProgram, spawnPart, whenUp } from './part-process.ts';
import { pickPort } from './ports.ts';
import { readZipEntry } from './read-zip-entry.ts';

export interface RedisPart extends Part {
  readonly url: string;
}

const recipe = join(import.meta.dirname, '..', 'redis');

/** Names of the servers inside com.github.codemonstur:embedded-redis 1.4.3. */
const bundled: Readonly<Record<string, string>> = {
  'linux-x64': 'redis-server-6.2.6-v5-linux-amd64',
  'linux-arm64': 'redis-server-6.2.7-linux-arm64',
  'linux-ia32': 'redis-server-6.2.7-linux-386',
  'darwin-x64': 'redis-server-6.2.6-v5-darwin-amd64',
  'darwin-arm64': 'redis-server-6.2.6-v5-darwin-arm64',
};

/** The server out of Maven's jar, unpacked once beside it. */
export async function unpackRedis(
  setting: Pick<PartSetting, 'jarsDir' | 'progress' | 'signal'>,
): Promise<string> {
  const entry = bundled[`${platform}-${arch}`];
  if (entry === undefined) {
    throw new PartProblem(
      `no redis-server on PATH, and none to fetch for ${platform}-${arch}: install Redis or give REDIS_URL`,
    );
  }
  const jars = await ensureJars({
    recipe,
    name: 'redis',
    cache: setting.jarsDir,
    progress: setting.progress,
    signal: setting.signal,
  });
  const program = join(jars, 'redis-server');
  if (existsSync(program)) return program;
  const bytes = await readZipEntry(join(jars, 'embedded-redis-1.4.3.jar'), entry);
  if (bytes === undefined) throw new PartProblem(`the embedded-redis jar holds no ${entry}`);
  const unpacking = `${program}.${process.pid}`;
  await writeFile(unpacking, bytes, { mode: 0o755 });
  await rename(unpacking, program);
  return program;
}

async function findServer(setting: PartSetting): Promise<string> {
  const { code } = await runProgram('redis-server', ['--version'], { timeoutMs: 10_000 });
  return code === 0 ? 'redis-server' : unpackRedis(setting);
}

/** Whether Redis answers PING; not while it still loads its data. */
function pings(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ port, host: '127.0.0.1' }, () => socket.write('PING\r\n'));
    const finish = (result: boolean) => {
      socket.destroy();
      resolve(result);
    };
    socket.setTimeout(1_000, () => finish(false));
    socket.once('data', (data) => finish(data.toString().startsWith('+PONG')));
    socket.once('error', () => finish(false));
  });
}

/** Starts Redis, from an append-only file where data is kept, and waits until it answers. */
export async function startRedis(setting: PartSetting): Promise<RedisPart> {
  const { dataDir, ephemeral, keeper, progress } = setting;
  const command = await findServer(setting);
  const folder = join(dataDir, 'redis');
  await mkdir(folder, { recursive: true });
  const port = await pickPort(setting.port);
  progress(`redis: starting on port ${port}`);
  const process = spawnPart(
    {
      name: 'redis',
      command,
      args: [
        ...[
          '--port',
          String(port),
          '--bind',
          '127.0.0.1',
          '--dir',
          folder,
          '--daemonize',
          'no',
          '--save',
          '',
        ],
        ...['--appendonly', ephemeral ? 'no' : 'yes', '--appendfsync', 'everysec'],
      ],
      folder,
      logFile: join(dataDir, 'logs', 'redis.log'),
      stopSignal: 'SIGTERM',
    },
    keeper,
  );
  await whenUp(process, () => pings(port), { label: 'redis', timeoutMs: 30_000, signal: setting.signal });
  return { process, port, url: `redis://127.0.0.1:${port}` };
}
