import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureJars } from './jars.ts';
import { findJava } from './java.ts';
import type { Part, PartSetting } from './part.ts';
import { spawnPart, whenUp } from './part-process.ts';
import { pickPort } from './ports.ts';

export interface ZipkinPart extends Part {
  readonly url: string;
}

const recipe = join(import.meta.dirname, '..', 'zipkin');

async function isHealthy(url: string): Promise<boolean> {
  try {
    const reply = await fetch(`${url}/health`, { signal: AbortSignal.timeout(1_000) });
    await reply.arrayBuffer();
    return reply.ok;
  } catch {
    return false;
  }
}

/** Starts Zipkin with its UI and waits until it answers. Spans are kept in memory, the last 100 000. */
export async function startZipkin(setting: PartSetting): Promise<ZipkinPart> {
  const { dataDir, jarsDir, keeper, progress } = setting;
  const [java, jars] = await Promise.all([
    findJava(),
    ensureJars({ recipe, name: 'zipkin', cache: jarsDir, progress, signal: setting.signal }),
  ]);
  const folder = join(dataDir, 'zipkin');
  await mkdir(folder, { recursive: true });
  const port = await pickPort(setting.port);
  progress(`zipkin: starting on port ${port}`);
  const process = spawnPart(
    {
      name: 'zipkin',
      // Nobody waits for it: what a first message needs goes first.
      command: 'nice',
      args: [
        ...['-n', '10', java],
        ...['-Xms64m', '-Xmx256m', '-XX:TieredStopAtLevel=1', `-Dsignalbox.folder=${folder}`],
        ...['-jar', join(jars, 'zipkin-server-3.6.1-exec.jar')],
      ],
      folder,
      logFile: join(dataDir, 'logs', 'zipkin.log'),
      stopSignal: 'SIGTERM',
      environment: {
        QUERY_PORT: String(port),
        SERVER_ADDRESS: '127.0.0.1',
        MEM_MAX_SPANS: '100000',
        STORAGE_TYPE: 'mem',
        SELF_TRACING_ENABLED: 'false',
      },
    },
    keeper,
  );
  const url = `http://127.0.0.1:${port}`;
  await whenUp(process, () => isHealthy(url), {
    label: 'zipkin',
    timeoutMs: 90_000,
    intervalMs: 100,
    signal: setting.signal,
  });
  return { process, port, url };
}
