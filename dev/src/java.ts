import { join } from 'node:path';
import { readVariable } from '@signalbox/config/process-environment';
import { PartProblem } from './part-problem.ts';
import { runProgram } from './part-process.ts';

const oldestJava = 17;

/** The ways out when something is missing, in one line. */
export const javaWaysOut =
  'install it (Debian, Ubuntu: apt-get install openjdk-17-jre-headless maven; macOS: brew install openjdk@17 maven), ' +
  'or use the compose stack (docker compose -f docker-compose.dev.yaml up)';

/** The major version in the first line of `java -version`: "17.0.15", "1.8.0_402", "25-ea". */
export function javaMajor(output: string): number | undefined {
  const match = /version "(?:1\.)?(\d+)/.exec(output);
  return match?.[1] === undefined ? undefined : Number(match[1]);
}

let found: Promise<string> | undefined;

async function find(): Promise<string> {
  const home = readVariable('JAVA_HOME');
  const candidates = [...(home === undefined ? [] : [join(home, 'bin', 'java')]), 'java'];
  let tooOld: number | undefined;
  for (const java of candidates) {
    const { code, output } = await runProgram(java, ['-version'], { timeoutMs: 15_000 });
    const major = code === 0 ? javaMajor(output) : undefined;
    if (major !== undefined && major >= oldestJava) return java;
    tooOld ??= major;
  }
  const what = tooOld === undefined ? 'no Java was found' : `Java ${tooOld} is too old`;
  throw new PartProblem(
    `${what}: the embedded Kafka and Zipkin need Java ${oldestJava} or newer; ${javaWaysOut}, ` +
      'or give your own broker in KAFKA_BOOTSTRAP_SERVERS (and OTEL_EXPORTER_OTLP_ENDPOINT for traces)',
  );
}

/** The Java program to start parts with: JAVA_HOME's, else the one on PATH. A PartProblem when there is none of 17 or later. */
export function findJava(): Promise<string> {
  found ??= find();
  return found;
}
