import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureJars } from './jars.ts';
import { findJava } from './java.ts';
import type { Part, PartSetting } from './part.ts';
import { PartProblem } from './part-problem.ts';
import { runProgram, spawnPart, whenUp } from './part-process.ts';
import { answers, pickPort } from './ports.ts';

export interface KafkaPart extends Part {
  readonly bootstrap: string;
  readonly clusterId: string;
}

const recipe = join(import.meta.dirname, '..', 'kafka');
const heap = ['-Xms256m', '-Xmx512m', '-XX:+ExitOnOutOfMemoryError'];
const logLevel = '-Dorg.slf4j.simpleLogger.defaultLogLevel=warn';

/** The broker's settings: one node that is broker and controller, nothing made that nobody asked for. */
export function serverProperties(
  folder: string,
  port: number,
  controllerPort: number,
  ephemeral: boolean,
): string {
  const settings: Record<string, string | number | boolean> = {
    'node.id': 1,
    'process.roles': 'broker,controller',
    listeners: `PLAINTEXT://127.0.0.1:${port},CONTROLLER://127.0.0.1:${controllerPort}`,
    'advertised.listeners': `PLAINTEXT://127.0.0.1:${port}`,
    'controller.listener.names': 'CONTROLLER',
    'listener.security.protocol.map': 'CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT',
    'controller.quorum.voters': `1@127.0.0.1:${controllerPort}`,
    'log.dirs': join(folder, 'data'),
    'auto.create.topics.enable': false,
    // A first consumer is given its partitions at once instead of after three seconds.
    'group.initial.rebalance.delay.ms': 0,
    'offsets.topic.replication.factor': 1,
    'offsets.topic.num.partitions': 10,
    'transaction.state.log.replication.factor': 1,
    'transaction.state.log.min.isr': 1,
    'share.coordinator.state.topic.replication.factor': 1,
    'share.coordinator.state.topic.min.isr': 1,
    // Sparse, but each partition maps two of them: 10 MB is for brokers with a disk of their own.
    'log.index.size.max.bytes': 2 << 20,
    'log.segment.bytes': 128 << 20,
    'log.cleaner.dedupe.buffer.size': 16 << 20,
  };
  // A test run makes and deletes hundreds of topics; their files go at once, not after a minute.
  if (ephemeral) settings['log.segment.delete.delay.ms'] = 100;
  return `${Object.entries(settings)
    .map(([name, value]) => `${name}=${value}`)
    .join('\n')}\n`;
}

/** Kafka's cluster id: 16 bytes in unpadded base64url, which must not begin with a dash (its own tool reads it as an option). */
function newClusterId(): string {
  for (;;) {
    const id = Buffer.from(randomUUID().replaceAll('-', ''), 'hex').toString('base64url');
    if (!id.startsWith('-')) return id;
  }
}

async function readClusterId(folder: string): Promise<string | undefined> {
  const file = join(folder, 'data', 'meta.properties');
  if (!existsSync(file)) return undefined;
  return /^cluster\.id=(.+)$/m.exec(await readFile(file, 'utf8'))?.[1]?.trim();
}

/** Gives the folder an identity, once. A format that was cut short has no meta.properties and is made again. */
async function format(
  java: string,
  classPath: string,
  folder: string,
  propertiesFile: string,
): Promise<string> {
  const clusterId = newClusterId();
  const { code, output } = await runProgram(java, [
    '-Xmx128m',
    logLevel,
    '-XX:TieredStopAtLevel=1',
    '-cp',
    classPath,
    'kafka.tools.StorageTool',
    'format',
    '--ignore-formatted',
    '-t',
    clusterId,
    '-c',
    propertiesFile,
  ]);
  if (code !== 0)
    throw new PartProblem(`Kafka's data folder ${folder} could not be formatted: ${output.trim()}`);
  return clusterId;
}

/** Starts the broker and waits until it answers. Data and cluster id stay as they are over restarts. */
export async function startKafka(setting: PartSetting): Promise<KafkaPart> {
  const { dataDir, jarsDir, ephemeral, keeper, progress } = setting;
  const [java, jars] = await Promise.all([
    findJava(),
    ensureJars({ recipe, name: 'kafka', cache: jarsDir, progress, signal: setting.signal }),
  ]);
  const classPath = join(jars, '*');
  const folder = join(dataDir, 'kafka');
  await mkdir(folder, { recursive: true });
  const port = await pickPort(setting.port);
  const controllerPort = await pickPort(setting.port === 0 ? 0 : port + 1);
  const propertiesFile = join(folder, 'server.properties');
  await writeFile(propertiesFile, serverProperties(folder, port, controllerPort, ephemeral));
  let clusterId = await readClusterId(folder);
  if (clusterId === undefined) {
    progress('kafka: formatting its data folder');
    clusterId = await format(java, classPath, folder, propertiesFile);
  }
  progress(`kafka: starting on port ${port}`);
  const process = spawnPart(
    {
      name: 'kafka',
      command: java,
      args: [
        ...heap,
        ...(ephemeral ? ['-XX:TieredStopAtLevel=1'] : []),
        logLevel,
        '-cp',
        classPath,
        'kafka.Kafka',
        propertiesFile,
      ],
      folder,
      logFile: join(dataDir, 'logs', 'kafka.log'),
      stopSignal: 'SIGTERM',
    },
    keeper,
  );
  // The broker opens its port when it is ready to answer.
  await whenUp(process, () => answers(port), { label: 'kafka', timeoutMs: 60_000, signal: setting.signal });
  return { process, port, bootstrap: `127.0.0.1:${port}`, clusterId };
}
