import { databaseSettings } from '@signalbox/config/database-settings';
import { kafkaSettings } from '@signalbox/config/kafka-settings';
import { outboxSettings } from '@signalbox/config/outbox-settings';
import { serviceSettings } from '@signalbox/config/service-settings';
import { integer, type SettingsOf } from '@signalbox/config/settings';

/** What tool-executor reads. */
export const toolExecutorSettings = {
  ...serviceSettings,
  ...databaseSettings,
  ...kafkaSettings,
  ...outboxSettings,
  maxConcurrent: integer({
    env: 'TOOL_EXECUTOR_MAX_CONCURRENT',
    doc: 'Tool calls run at once by a replica.',
    default: 4,
    min: 1,
    max: 256,
  }),
  warmProcesses: integer({
    env: 'TOOL_EXECUTOR_WARM_PROCESSES',
    doc: 'Idle processes kept for the next calls, about 40 MB each; a call without one waits 30 to 80 ms for its start.',
    default: 2,
    max: 256,
  }),
  timeoutMs: integer({
    env: 'TOOL_EXECUTOR_TIMEOUT_MS',
    doc: "Wall time of a call, where its tool's own or its deadline is not shorter.",
    default: 30_000,
    min: 10,
    max: 3_600_000,
  }),
  cpuSeconds: integer({
    env: 'TOOL_EXECUTOR_CPU_SECONDS',
    doc: "CPU time of a call's process (ulimit -t); whole seconds.",
    default: 5,
    min: 1,
    max: 3_600,
  }),
  memoryMb: integer({
    env: 'TOOL_EXECUTOR_MEMORY_MB',
    doc: 'Memory that a call may use beyond the idle runtime: bound of its heap, and of its resident size.',
    default: 128,
    min: 16,
    max: 16_384,
  }),
  outputBytes: integer({
    env: 'TOOL_EXECUTOR_OUTPUT_BYTES',
    doc: 'What a call may write, as output, error output and progress together.',
    default: 65_536,
    min: 256,
    max: 262_144,
  }),
  leaseMs: integer({
    env: 'TOOL_EXECUTOR_LEASE_MS',
    doc: 'A call of a replica that is gone is taken over after this.',
    default: 10_000,
    min: 2_000,
    max: 600_000,
  }),
};

export type ToolExecutorSettings = SettingsOf<typeof toolExecutorSettings>;
