import com.zeroc.Ice.Blobject;
import com.zeroc.Ice.Communicator;
import com.zeroc.Ice.Current;
import com.zeroc.Ice.Object;
import com.zeroc.Ice.ObjectAdapter;
import com.zeroc.Ice.OutputStream;
import com.zeroc.Ice.Util;

/**
 * A server, and a service of an icebox, that answers whatever is asked with nothing. Ends when its process object is asked to. With property
 * Find it looks for that object until it answers.
 */
public class Hello implements Blobject, com.zeroc.IceBox.Service
{
    @Override
    public Object.Ice_invokeResult ice_invoke(byte[] in, Current current)
    {
        OutputStream out = new OutputStream(current.adapter.getCommunicator());
        out.startEncapsulation();
        out.endEncapsulation();
        return new Object.Ice_invokeResult(true, out.finished());
    }

    private static void find(Communicator communicator, String wanted)
    {
        while(true)
        {
            try
            {
                communicator.stringToProxy(wanted).ice_ping();
                System.out.println("found " + wanted);
                return;
            }
            catch(com.zeroc.Ice.CommunicatorDestroyedException ex)
            {
                return;
            }
            catch(com.zeroc.Ice.Exception ex)
            {
                try
                {
                    Thread.sleep(100);
                }
                catch(InterruptedException interrupted)
                {
                    return;
                }
            }
        }
    }

    private static void serve(Communicator communicator, String adapter, String identity)
    {
        ObjectAdapter opened = communicator.createObjectAdapter(adapter);
        opened.add(new Hello(), Util.stringToIdentity(identity));
        opened.activate();
        System.out.println("up");
        String wanted = communicator.getProperties().getProperty("Find");
        if(!wanted.isEmpty())
        {
            Thread looking = new Thread(() -> find(communicator, wanted));
            looking.setDaemon(true);
            looking.start();
        }
    }

    @Override
    public void start(String name, Communicator communicator, String[] args)
    {
        serve(communicator, name, args[0]);
    }

    @Override
    public void stop()
    {
        System.out.println("service asked to end");
    }

    public static void main(String[] args)
    {
        try(Communicator communicator = Util.initialize(args))
        {
            serve(communicator, args[0], args[1]);
            communicator.waitForShutdown();
            System.out.println("asked to end");
        }
    }
}
