import { integer, loadSettings, text } from '@signalbox/config/settings';
import { webhookSettings } from '@signalbox/http-client/webhook-settings';
import { runMain } from '@signalbox/lifecycle/lifecycle';
import { startWebhookReceiver } from './server.ts';

/** The stand-in receiver as a process of its own, for the compose stack and for trying things out. */
await runMain(async (lifecycle) => {
  const { webhookSigningSecret: signingSecret, ...settings } = loadSettings('webhook-receiver', {
    ...webhookSettings,
    host: text({ env: 'HOST', doc: 'Address to listen on.', default: '0.0.0.0', max: 255 }),
    port: integer({ env: 'PORT', doc: 'Port to listen on; 0 takes a free one.', default: 8092, max: 65_535 }),
  });
  const receiver = await startWebhookReceiver({ ...settings, signingSecret });
  lifecycle.onStop({ name: 'server', phase: 'intake', run: () => receiver.close() });
  process.stdout.write(`stand-in receiver of webhooks on ${receiver.url}\n`);
});
