import '@signalbox/telemetry/register';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { toolExecutor } from './tool-executor.ts';

await runMain((lifecycle) =>
  toolExecutor(lifecycle, new URL('./tools/builtin-tools.ts', import.meta.url).href),
);
